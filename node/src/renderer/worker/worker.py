"""Draws frames inside Blender, one for each request, with the scene kept in memory.

Runs in the `blender` program (--python) and in a Python that has the `bpy` module. Requests are lines of JSON
on standard input; the first one is a token. Answers are lines of JSON on standard output, each after that token.
When standard input closes, the node is gone. The worker then ends at once, even in the middle of a frame.
"""

import gc
import os
import sys
import threading

import bpy

# The modules are next to this file, where Blender does not look by default.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from framecrew_draw import Animation, develop, draw
from framecrew_scene import load
from framecrew_sound import soundtrack
from framecrew_talk import answer, explain, flush_blender, read_requests, requests


@bpy.app.handlers.persistent
def print_progress(text, *_):
    """A handler. Prints the progress that Blender from 5.0 on only prints at log level "info"."""
    if isinstance(text, str):
        print("00:00.000  render           | Fra: 0 | %s" % text, flush=True)


def main():
    if bpy.app.version >= (5, 0, 0):
        bpy.app.handlers.render_stats.append(print_progress)
    threading.Thread(target=read_requests, daemon=True).start()
    # Output about the startup scene does not concern the job.
    flush_blender()
    answer("ready", version=bpy.app.version_string)
    request, loaded = None, None
    while True:
        wanted = requests.get()
        try:
            if "develop" in wanted:
                develop(loaded, wanted["develop"]["from"], wanted["develop"]["to"])
                continue
            span = wanted.get("span")
            # A simulation keeps state from earlier frames, but each frame must be as in a new Blender.
            is_used = loaded and loaded.drawn and "frame" in wanted and (span or loaded.simulations)
            if wanted["load"] != request or is_used:
                request, loaded = None, None
                answer("loading")
                loaded = load(wanted["load"])
                request = wanted["load"]
                gc.collect()
            if "soundtrack" in wanted:
                soundtrack(loaded.scene, wanted["soundtrack"]["span"], wanted["soundtrack"]["to"])
                continue
            answer("drawing", scene=loaded.scene.name)
            if span:
                Animation(loaded, wanted).draw()
                # Its scene can still develop previews.
                request = None
            else:
                draw(loaded, wanted["frame"], wanted["folder"], wanted["stem"])
        except Exception as error:
            request, loaded = None, None
            reason, message = explain(error)
            answer("failed", reason=reason, message=message)


main()
