"""Several runs in a row: which are done is on disk, so a stopped job starts again where it was."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchreid_xres.devices import distributed
from torchreid_xres.files import write_json

logger = logging.getLogger(__name__)


class Stages:
    """The stages of one job in one folder; each runs once, its JSON-able result is kept.

    Args:
        folder: where ``stages.json`` is kept.
        key: what the results depend on (a configuration hash). A folder that holds the stages of another
            key is refused, so that two experiments never mix; unless nothing has been learned there yet.
        differs: says what tells that experiment from this one, for the message; empty: by the keys alone.
        goes_on: of a key and results kept under it those that still hold where this experiment goes on from that one;
            None where it does not.

    Raises:
        ValueError: if the folder belongs to another key, or its record cannot be read.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> Stages(folder, "a").run("add", lambda: 1 + 1)
        2
        >>> Stages(folder, "a").run("add", lambda: 1 / 0)  # done already
        2
    """

    def __init__(
        self,
        folder: str | Path,
        key: str,
        differs: Callable[[], str] = str,
        goes_on: Callable[[str, dict], dict | None] = lambda key, done: None,
    ) -> None:
        self.path = Path(folder) / "stages.json"
        self.key, self._differs, self._goes_on = key, differs, goes_on
        self.done: dict[str, Any] = distributed.on_main(self._read)

    def _read(self) -> dict[str, Any]:
        if self.path.exists():
            try:
                kept = json.loads(self.path.read_text(encoding="utf-8"))
                held, done = kept["key"], kept["done"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{self.path} is damaged ({error}); remove it to start over") from error
            if held == self.key:
                return done
            still = self._goes_on(held, done)
            if still is not None:
                write_json({"key": self.key, "done": still}, self.path)
                return still
            if done or any(self.path.parent.rglob("*.pth.tar")):
                differs = self._differs() or f"configuration {held[:12]}, this one is {self.key[:12]}"
                raise ValueError(
                    f"{self.path.parent} holds another experiment ({differs}): name another data.save_dir, or start "
                    "over with --fresh"
                )
        write_json({"key": self.key, "done": {}}, self.path)
        return {}

    def run(self, name: str, work: Callable[[], Any], fills: Path | None = None) -> Any:
        """Return the kept result of ``name``, or do the work, keep its result and return it.

        Args:
            name: of the stage.
            work: what it does.
            fills: the folder of what the work leaves on disk; where somebody removed that, the work is done again.
        """
        if name in self.done:
            if fills is None or distributed.on_main(fills.is_dir):
                logger.info("stage %s is done already", name)
                return self.done[name]
            logger.warning("stage %s was done, but its folder %s is gone: it is done again", name, fills)
        # Through JSON, so that the first call returns what later ones will.
        result = json.loads(json.dumps(work()))
        distributed.wait()  # or one that fails yet would find it done
        self.done[name] = distributed.on_main(lambda: self._keep(name, result))
        return self.done[name]

    def _keep(self, name: str, result: Any) -> Any:
        write_json({"key": self.key, "done": {**self.done, name: result}}, self.path)
        return result
