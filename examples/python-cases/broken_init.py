"""Ends, or hangs, in the init phase, as the variable INIT says."""

import os
import time

match os.environ.get("INIT"):
    case "exit":
        os._exit(3)
    case "raise":
        raise RuntimeError("the init phase failed as asked")
    case "sleep":
        time.sleep(float(os.environ.get("INIT_SECONDS", "60")))
    case "syntax":
        eval("this is no Python")


def handler(event, context):
    return "init is over"
