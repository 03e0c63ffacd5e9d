"""Phantom images as DICOM files: CT in HU, MR and chest radiographs in 12 bits.

Every file carries an invented name, number, birth date, physician and institution, plainly fake,
so that de-identification has something to remove. Invariant: the same image gives the same bytes.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from infimed.core.errors import UsageError
from infimed.data.phantom.patient import ClinicImage

HU_OFFSET = 1024
STORAGE = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
}
"""SOP classes of what can be written (DICOM PS3.4, B.5): CT, MR and digital X-ray for presentation."""

_SEQUENCE = {"T1": ("SE", 500.0, 15.0), "T2": ("SE", 4000.0, 100.0), "FLAIR": ("IR", 9000.0, 120.0)}


def _uid(*names: object) -> str:
    return str(generate_uid(entropy_srcs=["infimed phantom", *map(str, names)]))


def _identity(dataset: Dataset, image: ClinicImage) -> None:
    truth = image.truth
    number = truth.patient_id
    dataset.PatientName = f"PHANTOM^{number.upper().replace('-', '^')}"
    dataset.PatientID = f"FAKE-{number}"
    dataset.PatientBirthDate = f"{2000 - truth.age:04d}0101"
    dataset.PatientSex = truth.sex
    dataset.PatientAge = f"{truth.age:03d}Y"
    dataset.ReferringPhysicianName = "NOBODY^INVENTED"
    dataset.InstitutionName = "Phantom Clinic (synthetic)"
    dataset.StudyDate = f"2000{1 + 6 * truth.time:02d}15"
    dataset.StudyTime = "120000"
    dataset.AccessionNumber = f"FAKE{truth.anatomy_seed % 10**8:08d}"
    dataset.StudyID = "1"


def phantom_dataset(image: ClinicImage) -> Dataset:
    """The DICOM data set of a CT, MR or chest-radiograph phantom.

    Raises:
        UsageError: the modality has no DICOM form here (colour images and ultrasound).
    """
    truth, modality = image.truth, image.truth.kind
    if modality.dicom not in STORAGE:
        raise UsageError(
            "this phantom modality is not written as DICOM",
            where=truth.image_id,
            seen=modality.dicom,
            accepted=STORAGE,
        )
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = STORAGE[modality.dicom]
    meta.MediaStorageSOPInstanceUID = _uid("image", truth.image_id)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = _uid("study", truth.image_id)
    dataset.SeriesInstanceUID = _uid("series", truth.image_id)
    dataset.FrameOfReferenceUID = _uid("frame", truth.image_id)
    _identity(dataset, image)
    dataset.Modality = modality.dicom
    dataset.Manufacturer = "InfiMed phantom"
    dataset.BodyPartExamined = modality.anatomy.upper()
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = 1
    dataset.ImageType = ["DERIVED", "PRIMARY"] + (["AXIAL"] if modality.dicom == "CT" else [])
    rows, columns = image.pixels.shape[:2]
    spacing = round(modality.field_mm / columns, 6)
    dataset.PixelSpacing = [spacing, spacing]
    if modality.dicom == "CT":
        assert image.hu is not None
        stored = (image.hu.astype(np.int32) + HU_OFFSET).astype(np.uint16)
        dataset.RescaleIntercept, dataset.RescaleSlope = -HU_OFFSET, 1
        dataset.RescaleType = "HU"
        dataset.WindowCenter = truth.acquisition.window_center
        dataset.WindowWidth = truth.acquisition.window_width
        dataset.KVP = 120
    else:
        stored = image.pixels.astype(np.uint16) * 16
        dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    if modality.dicom == "DX":
        dataset.ViewPosition = truth.acquisition.view
        dataset.ImageLaterality = "U"
        dataset.PatientOrientation = ["L", "F"]
        dataset.ImagerPixelSpacing = [spacing, spacing]
        dataset.PresentationIntentType = "FOR PRESENTATION"
        dataset.PixelIntensityRelationship, dataset.PixelIntensityRelationshipSign = "LOG", 1
        dataset.PresentationLUTShape = "IDENTITY"
    else:
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [-modality.field_mm / 2, -modality.field_mm / 2, 0]
        dataset.SliceThickness = 5
        dataset.PatientPosition = "HFS"
    if modality.dicom == "MR":
        dataset.SeriesDescription = truth.acquisition.view
        kind, repetition, echo = _SEQUENCE[truth.acquisition.view]
        dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = kind, "NONE", ""
        dataset.MRAcquisitionType = "2D"
        dataset.RepetitionTime, dataset.EchoTime = repetition, echo
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    if modality.dicom == "CT":
        # 12 bits hold -1024 to 3071 HU exactly.
        stored = np.minimum(stored, 4095)
    dataset.PixelData = stored.tobytes()
    return dataset


def write_dicom(path: str | os.PathLike[str], image: ClinicImage) -> None:
    """Write an image as a DICOM Part 10 file, appearing under its name only when complete."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    pydicom.dcmwrite(partial, phantom_dataset(image), enforce_file_format=True)
    partial.replace(target)
