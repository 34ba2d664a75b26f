"""Made by protoc from ../proto/*.proto (`make proto`); never edited. tests/unit/test_codec_cri.py holds it to its source."""
