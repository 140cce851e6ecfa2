"""Speaks with the node: requests are lines of JSON on standard input, and answers lines on standard output.

The first line of the input is a token, which begins each answer: every other line is Blender's own."""

import json
import os
import queue
import sys

requests = queue.SimpleQueue()
token = sys.stdin.buffer.readline().decode().strip()

# Bytes that a pipe takes in one piece; longer answers are cut, so that nothing of Blender's gets between.
ANSWER_BYTES_MAX = 4096

# Warnings of one kind that are told one by one; the rest is counted.
TOLD_MAX = 10


class Permanent(Exception):
    """No try can succeed."""


def answer(kind, /, **fields):
    line = encode(kind, fields)
    while len(line) > ANSWER_BYTES_MAX:
        # How many bytes its characters take is only known once they are written.
        longest = max(fields, key=lambda name: len(str(fields[name])))
        fields[longest] = fields[longest][: len(fields[longest]) * 9 // 10]
        line = encode(kind, fields)
    sys.stdout.flush()
    os.write(1, line)


def encode(kind, fields):
    # Names that are no UTF-8 come as halves of characters, which others do not read.
    fields = {
        name: value.encode(errors="replace").decode() if isinstance(value, str) else value
        for name, value in fields.items()
    }
    # The line break before it ends whatever Blender has left unfinished.
    return ("\n@%s %s\n" % (token, json.dumps({kind: fields}))).encode()


def note(text):
    answer("note", text=text)


def warn(kind, text):
    answer("warning", kind=kind, text=text)


def read_requests():
    for line in sys.stdin.buffer:
        requests.put(json.loads(line))
    os._exit(0)


def first_line(error):
    return str(error).strip().splitlines()[0][:500] if str(error).strip() else type(error).__name__


def explain(error):
    text = str(error).strip()
    if isinstance(error, Permanent):
        return "permanent", text
    lines = [line for line in text.splitlines() if line.strip()]
    # Reports come as "Error: …", the decisive one last.
    said = lines[-1][:500] if lines else type(error).__name__
    if "no camera" in text.lower():
        return "permanent", "the scene has no camera"
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return "out_of_memory", said
    return "renderer", said


def flush_blender():
    """Flushes what Blender has printed so far, so that it precedes the next answer."""
    try:
        import ctypes

        ctypes.CDLL(None).fflush(None)
    except (ImportError, OSError, TypeError):
        # If the C library cannot be loaded this way, the lines arrive later.
        pass
