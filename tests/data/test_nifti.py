"""NIfTI: the same anatomy whatever the storage order, exact values, safe headers."""

from __future__ import annotations

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest

from infimed.data import imaging, nifti
from infimed.data.imaging import ImageError, Limits


def volume_bytes(
    array: np.ndarray, axes: str = "RAS", spacing: tuple[float, ...] = (1.0, 2.0, 3.0)
) -> bytes:
    """The RAS volume `array` stored in another axis order, as an uncompressed NIfTI file."""
    image = nib.Nifti1Image(array, np.diag([*spacing, 1.0]))
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes)
    )
    return bytes(image.as_reoriented(turn).to_bytes())


def sample(kind: type = np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (12, 14, 10)).astype(kind)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAR", "LAI"])
def test_orientation_does_not_change_the_picture(axes: str) -> None:
    expected = nifti.open_volume(volume_bytes(sample()))
    turned = nifti.open_volume(volume_bytes(sample(), axes))
    assert np.array_equal(turned.axial(4).values, expected.axial(4).values)
    assert turned.spacing_mm == pytest.approx((1.0, 2.0, 3.0))


def test_axial_slices_show_anterior_up_and_the_right_side_on_the_left() -> None:
    array = np.zeros((12, 14, 10), np.int16)
    array[-1, -1, 5] = 100  # rightmost, most anterior voxel
    picture = nifti.open_volume(volume_bytes(array)).axial(5)
    assert picture.values[0, 0] == 100 and picture.values.shape == (14, 12)
    assert picture.facts["pixel_spacing_mm"] == [2.0, 1.0]


@pytest.mark.parametrize(("axis", "shape"), [(0, (10, 14)), (1, (10, 12)), (2, (14, 12))])
def test_every_plane_has_its_shape(axis: int, shape: tuple[int, int]) -> None:
    assert nifti.open_volume(volume_bytes(sample())).plane(axis, 3).values.shape == shape


def test_coronal_and_sagittal_slices_show_the_head_up() -> None:
    array = np.zeros((12, 14, 10), np.int16)
    array[:, :, -1] = 50
    volume = nifti.open_volume(volume_bytes(array))
    assert (volume.plane(1, 4).values[0] == 50).all() and (volume.plane(0, 4).values[0] == 50).all()


def test_integer_values_are_kept_exactly() -> None:
    volume = nifti.open_volume(volume_bytes(sample() - 100))
    units = imaging.in_units(volume.values, volume.facts)
    assert np.array_equal(units, (sample() - 100).astype(np.float32))


def test_float_volumes_are_quantised_within_a_step() -> None:
    array = np.random.default_rng(1).normal(size=(12, 14, 10)).astype(np.float32)
    volume = nifti.open_volume(volume_bytes(array))
    step = volume.facts["rescale_slope"]
    assert np.abs(imaging.in_units(volume.values, volume.facts) - array).max() <= step  # type: ignore[operator]


def test_gzip_gives_the_same_volume() -> None:
    data = volume_bytes(sample())
    assert np.array_equal(
        nifti.open_volume(gzip.compress(data)).values, nifti.open_volume(data).values
    )


def test_a_montage_tiles_its_slices_from_head_to_foot() -> None:
    volume = nifti.open_volume(volume_bytes(sample()))
    grid = volume.montage(4)
    slices = grid.facts["montage_slices"]
    assert grid.values.shape == (28, 24) and slices == sorted(slices, reverse=True)  # type: ignore[type-var]
    assert np.array_equal(grid.values[:14, :12], volume.axial(slices[0]).values)  # type: ignore[index]


def test_the_first_of_several_volumes_is_read() -> None:
    array = np.stack([sample(), sample() + 1], axis=3)
    data = bytes(nib.Nifti1Image(array, np.eye(4)).to_bytes())
    volume = nifti.open_volume(data)
    assert volume.facts["volumes"] == 2 and volume.values.max() == sample().max()


def test_a_gzip_bomb_is_refused() -> None:
    with pytest.raises(ImageError) as caught:
        nifti.open_volume(
            gzip.compress(b"\0" * 5_000_000), limits=Limits(max_volume_bytes=1_000_000)
        )
    assert caught.value.code == "bytes"


def test_a_header_that_lies_about_its_size_is_refused() -> None:
    data = bytearray(volume_bytes(sample()))
    struct.pack_into("<8h", data, 40, 3, 30000, 30000, 30000, 1, 1, 1, 1)
    with pytest.raises(ImageError) as caught:
        nifti.open_volume(bytes(data))
    assert caught.value.code in ("bytes", "truncated")


@pytest.mark.parametrize("cut", [10, 200, 400, 2000])
def test_a_cut_file_is_refused(cut: int) -> None:
    for data in (volume_bytes(sample())[:cut], gzip.compress(volume_bytes(sample()))[:cut]):
        with pytest.raises(ImageError):
            imaging.decode(data, suffix=".gz")


def test_a_slice_that_does_not_exist_is_named() -> None:
    with pytest.raises(ImageError) as caught:
        nifti.open_volume(volume_bytes(sample())).axial(99)
    assert caught.value.code == "frame"


def test_complex_volumes_are_refused() -> None:
    data = bytes(nib.Nifti1Image(np.zeros((9, 9, 9), np.complex64), np.eye(4)).to_bytes())
    with pytest.raises(ImageError) as caught:
        nifti.open_volume(data)
    assert caught.value.code == "unsupported"
