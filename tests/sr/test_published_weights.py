"""The public VDSR and FSRCNN weights reach their PSNR on Set5."""

import json

import pytest
from scripts import script

from torchreid_xres.sr import build_front_end


@pytest.fixture(scope="module")
def benchmark(repo):
    return script(repo / "benchmarks" / "psnr_set5.py")


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("method", ["bicubic", "fsrcnn"])
def test_psnr_is_the_named_one(benchmark, shared_data, method, scale):
    record = benchmark.measure(method, scale, shared_data)
    assert len(record["images"]) == 5
    assert record["psnr"] == pytest.approx(benchmark.METHODS[method].named[scale], abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_vdsr_on_8_bit_enlargements_is_the_named_one(benchmark, shared_data, scale):
    assert benchmark.measure("vdsr_8bit", scale, shared_data)["psnr"] == pytest.approx(
        {2: 37.55, 3: 33.72, 4: 31.25}[scale], abs=0.1
    )


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_vdsr_in_floating_point_is_no_worse(benchmark, shared_data, scale):
    # Enlarging in floating point spares the net the rounding: up to 0.2 dB above the named figure.
    gain = benchmark.measure("vdsr", scale, shared_data)["psnr"] - benchmark.METHODS["vdsr"].named[scale]
    assert 0 < gain < 0.25


def test_the_command_line_writes_its_records(benchmark, shared_data, tmp_path, capsys):
    argv = ["--root", str(shared_data), "--methods", "bicubic", "--scales", "4", "--json", str(tmp_path / "r.json")]
    assert benchmark.main(argv) == 0
    assert "28.43" in capsys.readouterr().out
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["records"][0]["method"] == "bicubic" and result["versions"]["torch"]
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize("scale, asked", [(2, 3), (2, 4), (3, 2), (3, 4), (4, 2), (4, 3)])
def test_a_file_of_another_scale_is_refused(shared_data, scale, asked):
    weights = shared_data / "weights" / "sr" / f"fsrcnn_x{scale}.pth"
    with pytest.raises(ValueError, match=rf"fsrcnn_x{scale}\.pth is of FSRCNN at scale {scale}, not {asked}"):
        build_front_end("fsrcnn", scale=asked, weights=weights)


def test_a_file_of_another_net_is_refused(shared_data):
    weights = shared_data / "weights" / "sr" / "vdsr_state_dict.pth"
    with pytest.raises(ValueError, match=r"does not fit FSRCNN.*lacks first\.0\.weight"):
        build_front_end("fsrcnn", weights=weights)
