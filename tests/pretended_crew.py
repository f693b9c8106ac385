"""Workers that are this process, with all that they are sent and send pickled."""

import contextlib
from concurrent.futures import Future
from types import SimpleNamespace

import cloudpickle

from manyshot.crews import Crew, _Held


class Lost(Exception):
    """A worker has ended."""


class Pretended(Crew):
    """Workers in this process, each of which gets pickled tasks and has pickled results."""

    lost = (Lost,)

    def __init__(self, count, loses=()):
        super().__init__(count)
        self.loses, self.asked, self.sent, self.holds = set(loses), [], [], {}

    def _pack(self, packed):
        self.sent.append(packed)
        return packed

    def _begin(self, worker):
        self.holds[worker] = _Held()
        return self._forgotten(None)

    def _submit(self, worker, work, needed, task):
        self.asked.append((worker, task))
        if len(self.asked) in self.loses:
            return self._forgotten(Lost("killed"))
        parts = {name: (lambda p=packed: p) for name, (_, packed) in self._packed.items()}
        try:
            result = self.holds[worker].do(work, needed, parts, cloudpickle.loads(
                cloudpickle.dumps(task)))  # fmt: skip
        except Exception as error:
            return self._forgotten(error)
        done = self._forgotten(None)
        done.result = lambda: cloudpickle.loads(cloudpickle.dumps(result))
        return done

    def _forgotten(self, error):
        future = Future()
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
        return future

    def _end(self, worker):
        del self.holds[worker]

    def _forget(self, worker):
        self.holds[worker] = _Held()


def helped(crew):
    """The workers of a command that has this crew."""
    return SimpleNamespace(count=crew.count, crew=lambda: contextlib.nullcontext(crew))
