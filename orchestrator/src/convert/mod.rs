//! Between the protocol and the domain. Every request is checked here and nowhere else, and all its violations are
//! reported at once.

mod parse_job;
mod parse_node;
mod show;
pub(crate) mod violations;

pub(crate) use self::{
    parse_job::{frames_to_retry, job_spec, request_id},
    parse_node::{batch_report, node_description, node_name, orphaned_frames, slice},
    show::{
        SpecDetail, active_to_wire, adoption_to_wire, encoding_to_wire, frame_state_to_wire,
        frame_to_wire, job_to_wire, limits_to_wire, line_to_wire, node_to_wire, project_to_wire,
        range_to_wire, settings_to_wire,
    },
};
