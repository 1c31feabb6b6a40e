"""Files, people and clusters: DICOM in and out, batch runs, reports, the command line."""
