"""What a layer brings: Lambda unpacks it to /opt, and /opt/python is on Python's path."""


def greeting(name: str) -> str:
    return f"Hello {name}, greetings from a layer"
