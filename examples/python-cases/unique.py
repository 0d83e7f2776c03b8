"""What must differ in each instance, however it came to be."""

import os
import random
import time
import uuid

# Drawn while the function is initialised: whatever was seeded then is in a snapshot.
FIRST = random.random(), uuid.uuid4()
INVOCATIONS = 0


def handler(event, context):
    """Random numbers of all kinds; and the time, which must be right."""
    global INVOCATIONS
    INVOCATIONS += 1
    return {
        "getrandom": os.getrandom(16).hex(),
        "uuid": str(uuid.uuid4()),
        "random": random.random(),
        "time": time.time(),
        "invocations": INVOCATIONS,
    }
