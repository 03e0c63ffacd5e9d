"""The phantom clinic: procedural patients with images, texts and the truth."""

from infimed.data.phantom.clinic import ClinicSummary, write_clinic
from infimed.data.phantom.patient import ClinicImage, PatientCase, generate_patient
from infimed.data.phantom.sheet import contact_sheet
from infimed.data.phantom.truth import ImageTruth, dense_targets

__all__ = [
    "ClinicImage",
    "ClinicSummary",
    "ImageTruth",
    "PatientCase",
    "contact_sheet",
    "dense_targets",
    "generate_patient",
    "write_clinic",
]
