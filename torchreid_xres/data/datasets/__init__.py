"""One file per data set; importing this package enters them all into ``DATASETS``."""

from torchreid_xres.data.datasets import (
    caviar,
    folder,
    mlr_cuhk03,
    mlr_dukemtmcreid,
    mlr_market1501,
    mlr_sysu,
    mlr_viper,
    mlr_vru,
    mta_reid,
    synth_person,
    synth_vehicle,
    vehicle2cam,
    vehicleid_x8,
    veri776_x8,
)

__all__ = [
    "caviar",
    "folder",
    "mlr_cuhk03",
    "mlr_dukemtmcreid",
    "mlr_market1501",
    "mlr_sysu",
    "mlr_viper",
    "mlr_vru",
    "mta_reid",
    "synth_person",
    "synth_vehicle",
    "vehicle2cam",
    "vehicleid_x8",
    "veri776_x8",
]
