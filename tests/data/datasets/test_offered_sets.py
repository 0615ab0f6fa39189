"""Sets that can be fetched are unpacked to where their readers look."""

import shutil

import pytest

from torchreid_xres.data.catalogue import catalogue


@pytest.mark.parametrize("name", [name for name, offer in catalogue().items() if offer.folder])
def test_offered_sets_go_where_their_readers_look(name, tree, build, tmp_path):
    folders = (path for path in sorted(tree(name).rglob("*")) if path.is_dir())
    held = next(path for path in folders if {"cam_a", "images"} & {inside.name for inside in path.iterdir()})
    place = tmp_path / "moved" / catalogue()[name].folder
    shutil.copytree(held, place)
    assert build(name, root=place.parent).split.folder.startswith(str(place))
