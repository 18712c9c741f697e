"""How fast blobfs is, beside other encrypted filesystems on the same disk. Not part of the tests: see run.py."""
