"""Phantom DICOM files are valid and hold the pixels and the fake identity."""

import io

import numpy as np
import pydicom
import pytest

from infimed.core.errors import UsageError
from infimed.data.phantom import generate_patient
from infimed.data.phantom.dicom import phantom_dataset, write_dicom


@pytest.fixture(scope="module")
def images():
    return {
        key: generate_patient(6, 1, size=96, modality=key).images[0]
        for key in ("abdominal_ct", "brain_mri", "chest_radiograph", "histology")
    }


def read(path):
    return pydicom.dcmread(io.BytesIO(path.read_bytes()))


def test_ct_hounsfield_units_survive(images, tmp_path):
    image = images["abdominal_ct"]
    write_dicom(tmp_path / "ct.dcm", image)
    read_back = read(tmp_path / "ct.dcm")
    hu = read_back.pixel_array.astype(int) * int(read_back.RescaleSlope) + int(
        read_back.RescaleIntercept
    )
    assert np.array_equal(hu, image.hu)
    assert float(read_back.WindowCenter) == image.truth.acquisition.window_center
    assert float(read_back.WindowWidth) == image.truth.acquisition.window_width


@pytest.mark.parametrize("key", ["brain_mri", "chest_radiograph"])
def test_grey_levels_survive(images, tmp_path, key):
    write_dicom(tmp_path / "a.dcm", images[key])
    assert np.array_equal(read(tmp_path / "a.dcm").pixel_array // 16, images[key].pixels)


def test_spacing_times_columns_is_the_field_of_view(images):
    for key in ("abdominal_ct", "brain_mri", "chest_radiograph"):
        dataset = phantom_dataset(images[key])
        field = images[key].truth.kind.field_mm
        assert float(dataset.PixelSpacing[1]) * dataset.Columns == pytest.approx(field)


def test_view_and_identity_are_there_to_be_read_and_removed(images):
    dataset = phantom_dataset(images["chest_radiograph"])
    assert dataset.ViewPosition == images["chest_radiograph"].truth.acquisition.view
    assert str(dataset.PatientName).startswith("PHANTOM^") and dataset.PatientID.startswith("FAKE-")
    assert dataset.PatientBirthDate and dataset.InstitutionName == "Phantom Clinic (synthetic)"


def test_the_same_image_gives_the_same_bytes(images, tmp_path):
    for name in ("a.dcm", "b.dcm"):
        write_dicom(tmp_path / name, images["brain_mri"])
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()


def test_colour_images_are_refused(images):
    with pytest.raises(UsageError, match="SM"):
        phantom_dataset(images["histology"])
