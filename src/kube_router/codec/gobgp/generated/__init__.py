"""Made by protoc from ../proto/*.proto (`make proto`); never edited. tests/unit/test_codec_gobgp_generated.py holds it to its sources."""
