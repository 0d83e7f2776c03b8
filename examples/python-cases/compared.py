"""What AWS's emulator and Costrel are compared on: the other handlers by name, or what came."""

import cases


def handler(event, context):
    print("handled")
    if isinstance(event, dict) and "case" in event:
        return getattr(cases, event["case"])(event, context)
    client = context.client_context
    return {
        "event": event,
        "custom": client.custom if client else None,
        "memory": context.memory_limit_in_mb,
        "version": context.function_version,
    }
