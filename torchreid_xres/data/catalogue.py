"""What can be fetched: published weights and openly offered sets; and for all other sets, how to get them.

Addresses come from the packages that use the files (torchvision, timm, torchreid) where these know them, so that both
agree; the rest are listed here, each with who publishes it. A checksum is listed where its publisher, or several who
hold the file, state it: torchvision's file names carry the first eight digits.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

from torchreid_xres import host
from torchreid_xres.data.datasets.drawn import DrawnDataset
from torchreid_xres.data.options import DATASETS

DRIVE = "https://drive.google.com/uc?id="
SHIPPED = "package:"  # before the name of a file in ``data/shipped``

# The model zoo of torchreid (docs/MODEL_ZOO.md), trained on one set: Google Drive's number of the file.
_ZOO = {
    "resnet50_market1501": "1dUUZ4rHDWohmsQXCRe2C_HbYkzz94iBV",
    "resnet50_msmt17": "1ep7RypVDOthCRIAqDnn4_N-UhkkFHJsj",
    "resnet50_fc512_market1501": "1kv8l5laX_YCdIGVCetjlNdzKIA3NvsSt",
    "resnet50_fc512_msmt17": "1fDJLcz4O5wxNSUvImIIjoaIF9u1Rwaud",
    "osnet_x1_0_market1501": "1vduhq5DpN2q1g4fYEZfPI17MJeh9qyrA",
    "osnet_x1_0_msmt17": "112EMUfBPYeYg70w-syK6V6Mx8-Qb9Q1M",
    "osnet_x0_75_market1501": "1ozRaDSQw_EQ8_93OUmjDbvLXw9TnfPer",
    "osnet_x0_75_msmt17": "1QEGO6WnJ-BmUzVPd3q9NoaO_GsPNlmWc",
    "osnet_x0_5_market1501": "1PLB9rgqrUM7blWrg4QlprCuPT7ILYGKT",
    "osnet_x0_5_msmt17": "1UT3AxIaDvS2PdxzZmbkLmjtiqq7AIKCv",
    "osnet_x0_25_market1501": "1z1UghYvOTtjx7kEoRfmqSMu-z62J6MAj",
    "osnet_x0_25_msmt17": "1sSwXSUlj4_tHZequ_iZ8w_Jh0VaRQMqF",
    "osnet_ibn_x1_0_msmt17_all": "1q3Sj2ii34NlfxA4LvmHdWO_75NDRmECJ",
    "osnet_ain_x1_0_msmt17_all": "1SigwBE6mPdqiJMqhuIY4aqC7--5CsMal",
}

# Full checksums of Drive's and Dropbox's files, as stated by projects that check them.
_SHA256 = {
    "osnet_x0_25_market1501": "c0ff09177a21417a19bc73bbf5af4eb5d2b097c2074ed35e67819ee6cd93612c",
    "osnet_x0_25_msmt17": "6f57607fed9f502b9efed546108132ee715df5a5b6e6932c6269bacb47f59f99",
    "fsrcnn_x2": "1af70e2cbf0d11b942008d6c425e469e9fe275a68f3ac8b6c21e8672d6e67b69",
    "fsrcnn_x3": "f65b55819c1258048bc8c1ca96f9e24bd4339f779951d7f928144c08e3868d75",
    "fsrcnn_x4": "c15150d6787d487f38a68e66be5ec8a964182403af494e6a935fa03eeb56a630",
}

_TORCHSR = "https://github.com/Coloquinte/torchSR/releases/download/v1.0.3"
_SWINIR = "https://github.com/JingyunLiang/SwinIR/releases/download/v0.0"
_DROPBOX = "https://dl.dropboxusercontent.com/s"

# Front end and scale -> address, and who publishes it.
_SR = {
    "fsrcnn_x2": (f"{_DROPBOX}/1k3dker6g7hz76s/fsrcnn_x2.pth", "yjn870/FSRCNN-pytorch, terms on its page"),
    "fsrcnn_x3": (f"{_DROPBOX}/pm1ed2nyboulz5z/fsrcnn_x3.pth", "yjn870/FSRCNN-pytorch, terms on its page"),
    "fsrcnn_x4": (f"{_DROPBOX}/vsvumpopupdpmmu/fsrcnn_x4.pth", "yjn870/FSRCNN-pytorch, terms on its page"),
    **{f"edsr_baseline_x{s}": (f"{_TORCHSR}/edsr64_x{s}.pt", "Coloquinte/torchSR, MIT") for s in (2, 3, 4)},
    **{f"edsr_x{s}": (f"{_TORCHSR}/edsr_x{s}.pt", "Coloquinte/torchSR, MIT") for s in (2, 3, 4)},
    **{f"rcan_x{s}": (f"{_TORCHSR}/rcan_x{s}.pt", "Coloquinte/torchSR, MIT") for s in (2, 3, 4, 8)},
    **{
        f"swinir_x{s}": (f"{_SWINIR}/001_classicalSR_DF2K_s64w8_SwinIR-M_x{s}.pth", "JingyunLiang/SwinIR, Apache-2.0")
        for s in (2, 4)
    },
}


@dataclass(frozen=True)
class Offer:
    """A file, or an archive of a set, that anybody may fetch.

    Attributes:
        name: by which it is asked for; that of the data set for an archive.
        url: where it is; https, http, a file of Google Drive, or :data:`SHIPPED` and a file of this package.
        file: its name on disk.
        what: what it is.
        terms: licence, or terms of use.
        use: where the file goes in a configuration; empty for an archive.
        sha256: checksum, or the first digits of it, where known.
        folder: folder below the root of the sets that the archive becomes; empty for weights.
        network: of torchreid, trained for re-ID, that the weights are of; empty for all else.
        config: in ``configs/``, by which that network was trained; empty: torchreid's defaults at 256x128.
    """

    name: str
    url: str
    file: str
    what: str
    terms: str
    use: str = ""
    sha256: str = ""
    folder: str = ""
    network: str = ""
    config: str = ""


def catalogue() -> dict[str, Offer]:
    """Return all offers by name.

    Example:
        >>> offer = catalogue()["resnet50_imagenet"]
        >>> offer.url.startswith("https://download.pytorch.org/"), offer.sha256
        (True, '0676ba61')
    """
    offers = [*_imagenet_trunks(), *_reid_trunks(), *_shipped(), *_front_ends(), *_sets()]
    return {offer.name: offer for offer in offers}


def _imagenet_trunks() -> list[Offer]:
    import timm  # these take seconds
    import torchvision

    offers = []
    for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"):
        url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
        file = url.rpartition("/")[2]
        prefix = re.search(r"-([0-9a-f]{8,64})\.", file)
        offers.append(
            Offer(
                f"{name}_imagenet", url, file, f"{name} of torchvision, ImageNet", "BSD-3-Clause (torchvision)",
                "model.reid_weights", prefix[1] if prefix else "",
            )
        )  # fmt: skip
    for module in ("models.osnet", "models.osnet_ain"):
        for name, url in host.module(module).pretrained_urls.items():
            file = f"{name}_imagenet.pth"  # as the host names it
            offers.append(
                Offer(
                    f"{name}_imagenet", url, file, f"{name} of torchreid, ImageNet", "MIT (torchreid)",
                    "model.reid_weights",
                )
            )  # fmt: skip
    for name in timm.list_models("hrnet_w*"):
        cfg = timm.models.get_pretrained_cfg(name)
        repository = cfg.hf_hub_id
        if repository:
            offers.append(
                Offer(
                    f"{name}_imagenet",
                    f"https://huggingface.co/{repository}/resolve/main/model.safetensors",
                    f"{repository.rpartition('/')[2]}.safetensors",
                    f"{name} of timm, ImageNet",
                    f"{cfg.license or 'see its page'} ({repository})",
                    "model.options {backbone_weights: ...}",
                )
            )
    return offers


def _reid_trunks() -> list[Offer]:
    return [
        Offer(
            name, DRIVE + number, f"{name}.pth", f"{network} of torchreid, re-ID on {training}",
            "MIT (torchreid); the training set is for research only",
            "model.reid_weights", _SHA256.get(name, ""), network=network,
        )
        for name, number in _ZOO.items()
        for network, training in [re.fullmatch(r"(.+?)_(market1501|msmt17(?:_all)?)", name).groups()]
    ]  # fmt: skip


def _shipped() -> list[Offer]:
    return [
        Offer(
            "osnet_x0_25_vehicles", f"{SHIPPED}osnet_x0_25_vehicles.pth", "osnet_x0_25_vehicles.pth",
            "osnet_x0_25 of torchreid, re-ID on vehicles in two cameras, from nothing; docs/model_card.md",
            "MIT (this package); the training set is Apache-2.0", "model.reid_weights",
            "25ba691e672659fc814e3d966c15463c641a5990938fe2b29ba3d9254995692b",
            network="osnet_x0_25", config="osnet_vehicle2cam.yaml",
        ),
    ]  # fmt: skip


def _front_ends() -> list[Offer]:
    offers = []
    for name, (url, publisher) in _SR.items():
        front_end, scale = name.rsplit("_x", 1)
        trunk = front_end == "swinir"
        offers.append(
            Offer(
                name, url, url.rpartition("/")[2], f"{front_end} at x{scale}{', a trunk of prpr_restorer' * trunk}",
                publisher, "sr.weights", _SHA256.get(name, ""),
            )
        )  # fmt: skip
    return offers


def _sets() -> list[Offer]:
    return [
        Offer(
            "mlr_viper", "http://users.soe.ucsc.edu/~manduchi/VIPeR.v1.0.zip", "VIPeR.v1.0.zip",
            "VIPeR, 632 persons", DATASETS["mlr_viper"].meta["terms"], folder="VIPeR",
        ),
        Offer(
            "vehicle2cam", f"{DATASETS['vehicle2cam'].meta['page']}/archive/HEAD.zip", "Vehicle-Re-ID-Dataset.zip",
            "vehicles in two cameras", DATASETS["vehicle2cam"].meta["terms"], folder="Vehicle-Re-ID-Dataset",
        ),
    ]  # fmt: skip


def how_to_get(name: str) -> str:
    """Say of a data set that is not fetched how to get it, and where its files go.

    Args:
        name: a registered data set.

    Raises:
        KeyError: if there is none of that name.

    Example:
        >>> print(how_to_get("mlr_dukemtmcreid").splitlines()[0])
        mlr_dukemtmcreid is not downloaded. Terms: withdrawn by its authors in 2019; never downloaded here
    """
    entry = DATASETS[name]
    if issubclass(entry.build, DrawnDataset):
        return f"{name} is drawn by this package: there is nothing to get"
    doc = inspect.getdoc(entry.build) or ""
    places = [part for part in doc.split("\n\n") if part.startswith(("Folders:", "Layouts:", "A tree:", "A table:"))]
    lines = [f"{name} is not downloaded. Terms: {entry.meta['terms']}"]
    if entry.meta["cite"]:
        lines.append(f"Paper: {entry.meta['cite']}")
    if entry.meta["page"]:
        lines.append(f"Page: {entry.meta['page']}")
    lines += [part.replace("``", "") for part in places]
    if places:
        lines.append("All below the folder that --root or data.root names.")
    return "\n".join(lines)
