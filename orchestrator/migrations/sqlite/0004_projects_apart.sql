-- A project of thousands of files is a megabyte: it lies apart from its job, so that whoever lists jobs, or notes
-- how one stands, need not touch it. What is left of it in the spec is an empty one.
CREATE TABLE project (
    job_id BIGINT PRIMARY KEY,
    project TEXT NOT NULL
);

INSERT INTO project (job_id, project) SELECT job_id, json_extract(spec, '$.project') FROM job;

UPDATE job SET spec = json_set(spec, '$.project', json('{"blend_path":"","files":[]}'));
