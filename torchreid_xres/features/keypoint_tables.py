"""Tables from the records of keypoint networks."""

from __future__ import annotations

from collections.abc import Iterable

from torchreid_xres.text import text_table


def keypoint_table(records: Iterable[dict], style: str = "github") -> str:
    """Return PCK and visibility accuracy in per cent, a row for each data set, model and resolution of the pictures.

    Args:
        records: as :class:`torchreid_xres.engine.keypoints.KeypointEngine` keeps them; others are left out.
        style: a table format of ``tabulate`` (``github``, ``latex``, ``simple``, ...).

    Example:
        >>> facts = {"dataset": "cars", "model": "net", "test_images": 9, "parameters": 2_000_000}
        >>> figures = {"pck": 91.0, "visibility": 95.5, "pck_x8": 80.0, "visibility_x8": 90.0}
        >>> print(keypoint_table([{**facts, **figures, "protocol": {"pck": 0.1, "rates": [8.0]}}], style="plain"))
        data set    model    pictures    images    PCK@0.1    visibility    params (M)    train (s)
        cars        net      plain       9         91.0       95.5          2.00          -
        cars        net      x8          9         80.0       90.0          2.00          -
    """
    rows = []
    for record in records:
        if "pck" not in record:
            continue
        for kind in ("", *(f"_x{rate:g}" for rate in record["protocol"]["rates"])):
            rows.append(
                {
                    "data set": record["dataset"],
                    "model": record["model"],
                    "pictures": kind.lstrip("_") or "plain",
                    "images": record["test_images"],
                    f"PCK@{record['protocol']['pck']:g}": f"{record[f'pck{kind}']:.1f}",
                    "visibility": f"{record[f'visibility{kind}']:.1f}",
                    "params (M)": f"{record['parameters'] / 1e6:.2f}",
                    "train (s)": f"{record['train_seconds']:.0f}" if "train_seconds" in record else "-",
                }
            )
    return text_table(rows, style)
