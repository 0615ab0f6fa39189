"""Galleries of boxes and tracks: crops out of frames that are never written, what cannot be named, videos."""

import shutil
from itertools import pairwise

import pytest
import torch
from archive import SIZE, Eye, box_of, frame_of, mot, street

from torchreid_xres.archive.boxes import read_boxes
from torchreid_xres.archive.entries import find_entries
from torchreid_xres.archive.reading import CLEAREST, sharpness
from torchreid_xres.data.io import read_image
from torchreid_xres.search import Gallery


@pytest.fixture
def frames(tmp_path):
    return street(tmp_path / "frames")


def test_boxes_are_described_as_their_crops_and_nothing_is_written(frames, tmp_path):
    eye, before = Eye(), sorted(frames.iterdir())
    gallery = Gallery(tmp_path / "gallery", eye)
    done = gallery.update(frames, mot(tmp_path / "det.txt", tracks=False))
    assert done.added == len(gallery) == 10 and not done.faults and not done.listed
    assert sorted(eye.frames) == [path.name for path in before] == [path.name for path in sorted(frames.iterdir())]
    left, top, width, height = box = box_of(2, 3)
    crop = read_image(frames / "000003.png").crop((left, top, left + width, top + height))
    hit = gallery.search(eye(crop), top=1)[0][0]
    assert (hit.name, hit.frame, hit.box) == (f"000003.png#{left},{top},{width},{height}", "000003.png", box)
    assert hit.path == frames / "000003.png" and hit.size == (80, 30) and hit.score == pytest.approx(1)
    assert Gallery(gallery.folder).picture(hit).tobytes() == crop.tobytes()
    again = gallery.update(frames, tmp_path / "det.txt")
    assert (again.added, again.changed, again.removed, again.kept) == (0, 0, 0, 10) and len(eye.frames) == 5

    (frames / "000004.png").touch()  # another date: its two boxes are read again
    assert gallery.update(frames, tmp_path / "det.txt").changed == 2
    mot(tmp_path / "det.txt", frames=4, tracks=False)
    assert gallery.update(frames, tmp_path / "det.txt").removed == 2


def test_a_track_is_the_mean_of_its_clearest_crops(frames, tmp_path):
    eye = Eye()
    gallery = Gallery(tmp_path / "gallery", eye)
    assert gallery.update(frames, mot(tmp_path / "gt.txt")).added == 2 and gallery.names == ["track 1", "track 2"]
    crops = []
    for number in range(1, 6):
        left, top, width, height = box_of(1, number)
        crops.append(eye.prepare(frame_of(number).crop((left, top, left + width, top + height))))
    crops.sort(key=lambda one: sharpness(one.pixels), reverse=True)  # later frames have stronger stripes
    units = torch.nn.functional.normalize(eye.describe(crops[:CLEAREST]), dim=1)
    torch.testing.assert_close(gallery.features[0], units.mean(0))
    hit = gallery.search(units[:1], top=1)[0][0]
    assert (hit.track, hit.frame, hit.box) == ("1", "000005.png", box_of(1, 5))
    mot(tmp_path / "gt.txt", frames=4)
    assert gallery.update(frames, tmp_path / "gt.txt").changed == 2


def test_the_wrong_ones_of_many_boxes_are_named_and_cost_no_other(frames, tmp_path):
    bad = f"1,-1,{SIZE[1] - 5},5,20,40,1\n9,-1,1,1,5,9,1\n1,-1,5,5,0,9,1\n1,-1,x,5,5,9,1\n2,-1,0,5,9,9,1\n"
    file = mot(tmp_path / "det.txt", tracks=False, more=bad + mot(tmp_path / "a.txt", 1, False).read_text())
    gallery = Gallery(tmp_path / "gallery", Eye())
    done = gallery.update(frames, file)
    assert len(gallery) == done.added == 10
    assert {where: why.split(",")[0] for where, why in done.listed.items()} == {
        "line 12": "there is no frame 9", "line 13": "a box has a width and a height",
        "line 14": "frame", "line 16": "it is listed twice", "line 17": "it is listed twice",
    }  # fmt: skip
    assert {name: why.split(" (")[0] for name, why in done.faults.items()} == {
        "000001.png#234,4,20,40": "the box 234 4 20 40", "000002.png#-1,4,9,9": "the box -1 4 9 9",
    }  # fmt: skip
    assert all("reaches out of the picture" in why for why in done.faults.values())
    assert "inside of it is 234 4 6 40" in done.faults["000001.png#234,4,20,40"]
    assert gallery.faults == done.faults

    inside = "".join(f"{number},3,{235 - number},5,{number + 1},40,1\n" for number in range(1, 6))
    mot(tmp_path / "gt.txt", more=inside + "2,3,239,5,20,150,1\n")
    tracks = Gallery(tmp_path / "tracks", Eye())
    done = tracks.update(frames, tmp_path / "gt.txt")
    assert len(tracks) == 3 and list(done.faults) == ["track 3, 000002.png#238,4,20,150"]


def test_lists_that_fit_no_frame_and_other_kinds_of_galleries_are_refused(frames, tmp_path):
    gallery = Gallery(tmp_path / "gallery", Eye())
    (tmp_path / "no.txt").write_text("77,1,1,1,5,5\n")
    with pytest.raises(ValueError, match=r"none of the boxes of .*no\.txt .*line 1: there is no frame 77"):
        gallery.update(frames, tmp_path / "no.txt")
    assert not gallery.folder.exists()
    gallery.update(frames)
    with pytest.raises(ValueError, match="is of whole images: build it of these again"):
        gallery.update(frames, mot(tmp_path / "det.txt"))
    boxed = Gallery(tmp_path / "boxed", Eye())
    boxed.update(frames, tmp_path / "det.txt")
    with pytest.raises(ValueError, match=r"is of the boxes of .*det.txt"):
        Gallery(boxed.folder, Eye()).update(frames)
    shutil.copytree(frames, frames / "two")
    with pytest.raises(ValueError, match=r"frame 1 is 000001\.png as well as two/000001\.png"):
        gallery.update(frames, tmp_path / "det.txt")
    boxes = "path,left,top,width,height,camera,track\n" + "".join(f"two/00000{n}.png,5,5,9,9,c,1\n" for n in (1, 2))
    (tmp_path / "det.csv").write_text(boxes + "../frames/000001.png,1,1,9,9,,\n../x.png,1,1,9,9,,\n")
    found = find_entries(frames, gallery.folder, read_boxes(tmp_path / "det.csv"))
    assert {*found.found} == {"c/track 1", "000001.png#1,1,9,9"} and list(found.faults) == ["line 5"]


def test_videos(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "street.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = *SIZE, "yuv420p", 4_000_000
        for number in range(1, 14):
            container.mux(stream.encode(av.VideoFrame.from_image(frame_of(min(number, 10)))))
        container.mux(stream.encode())
    eye, gallery = Eye(), Gallery(tmp_path / "gallery", Eye())
    done = gallery.update(path, mot(tmp_path / "det.txt", frames=10, tracks=False, more="99,-1,1,1,9,9,1\n"))
    assert len(gallery) == 20 and done.faults == {"street.mp4@99#0,0,9,9": "the video has no such frame"}
    left, top, width, height = box_of(1, 7)
    hit = gallery.search(eye(frame_of(7).crop((left, top, left + width, top + height))), top=1)[0][0]
    assert (hit.frame, hit.time, hit.path) == ("street.mp4@7", "0.600", path) and hit.box == box_of(1, 7)
    assert gallery.picture(hit).size == (width, height)
    thin = Gallery(tmp_path / "thin", Eye())
    done = thin.update(path, tmp_path / "det.txt", rate=2)
    assert {row.frame for row in thin.rows} == {"street.mp4@1", "street.mp4@6"} and done.thinned == 16
    whole = Gallery(tmp_path / "whole", Eye())
    whole.update(path, rate=2)
    assert whole.names == ["street.mp4@1", "street.mp4@11", "street.mp4@6"]
    (tmp_path / "no.mp4").write_text("no video")
    with pytest.raises(OSError, match=r"no.mp4: cannot be read as a video"):
        whole.update(tmp_path / "no.mp4")
    table = tmp_path / "det.csv"
    table.write_text("path,left,top,width,height,time\nstreet.mp4,5,5,9,9,0.6\nstreet.mp4,5,5,9,9,\n")
    found = find_entries(tmp_path, gallery.folder, read_boxes(table))
    assert [*found.found] == ["street.mp4@7#5,5,9,9"] and "needs a frame" in found.faults["line 3"]


def test_sharpness_falls_with_blur():
    rng = torch.Generator().manual_seed(0)
    sharp = torch.rand(3, 32, 16, generator=rng)
    blurred = torch.nn.functional.avg_pool2d(sharp, 3, 1, 1)
    values = [sharpness(one) for one in (sharp, blurred, torch.nn.functional.avg_pool2d(blurred, 3, 1, 1))]
    assert all(a > 2 * b > 0 for a, b in pairwise(values))
