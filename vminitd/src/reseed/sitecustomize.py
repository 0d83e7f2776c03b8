# Costrel's: reseeds what this process has seeded before it was saved, once in each process that is
# restored from it. The signal comes before anything else runs there. See vminitd/src/reseed.rs.
import sys

SIGNAL = 59
GENERATORS = ("random", "numpy.random")
seeded = set()


def watch(module):
    """Notes when the program seeds a module's generator: then its sequence is the program's wish."""

    def noting(function):
        def note(*arguments, **named):
            given = [value for value in arguments or named.values() if value is not None]
            (seeded.add if given else seeded.discard)(module.__name__)
            return function(*arguments, **named)

        note.__name__ = function.__name__
        note.__doc__ = function.__doc__
        note.__wrapped__ = function
        return note

    for name in ("seed", "setstate", "set_state"):
        if hasattr(module, name):
            setattr(module, name, noting(getattr(module, name)))


class Finder:
    """Finds nothing itself, and has the generators' modules watched when they are imported."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name not in GENERATORS:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find and finder is not cls else None
            if spec is None:
                continue
            loader = spec.loader
            if hasattr(loader, "__dict__") and not isinstance(loader, type):
                execute = loader.exec_module

                def exec_module(module):
                    del loader.exec_module
                    execute(module)
                    watch(module)

                loader.exec_module = exec_module
            return spec
        return None


def restored(_signal, _frame):
    for name in GENERATORS:
        module = sys.modules.get(name)
        if name not in seeded and hasattr(module, "seed"):
            module.seed()
    if "_ssl" in sys.modules:
        sys.modules["_ssl"].RAND_add(sys.modules["os"].urandom(64), 64.0)


def install():
    import _signal

    _signal.signal(SIGNAL, restored)
    # What waits in the kernel goes on waiting.
    _signal.siginterrupt(SIGNAL, False)
    for name in GENERATORS:
        if name in sys.modules:
            watch(sys.modules[name])
    sys.meta_path.insert(0, Finder)


def chain():
    """Runs the sitecustomize that there is without this one."""
    directory = __file__.rpartition("/")[0]
    sys.path[:] = [path for path in sys.path if path != directory]
    this = sys.modules.pop(__name__)
    try:
        __import__(__name__)
    except ImportError as error:
        if getattr(error, "name", None) != __name__:
            raise
    finally:
        sys.modules.setdefault(__name__, this)


try:
    install()
except Exception:
    # An interpreter that cannot do it must run all the same.
    pass
chain()
