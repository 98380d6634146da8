"""Makes a wheel of programs: `wheel.py FOLDER-OF-PROGRAMS WHEEL NAME VERSION TAG README LICENCES`.

pip puts the files of `NAME-VERSION.data/scripts` on the PATH. The wheel holds no Python.
"""

import base64
import hashlib
import pathlib
import sys
import zipfile

programs, wheel, name, version, tags, readme, licences = sys.argv[1:]
stem = f"{name.replace('-', '_')}-{version}"
summary = "OpenAI-compatible front door that discovers the models of one namespace, and its workers"
licences = sorted(pathlib.Path(licences).iterdir())

metadata = f"""Metadata-Version: 2.4
Name: {name}
Version: {version}
Summary: {summary}
License-Expression: Apache-2.0
{"".join(f"License-File: {path.name}" + chr(10) for path in licences)}Requires-Python: >=3.8
Description-Content-Type: text/markdown

{pathlib.Path(readme).read_text()}"""

# One tag for each platform: a compressed set in the file's name stands for all of them.
python, abi, platforms = tags.split("-")
expanded = "".join(f"Tag: {python}-{abi}-{platform}\n" for platform in platforms.split("."))
about = f"Wheel-Version: 1.0\nGenerator: cargo xtask dist\nRoot-Is-Purelib: false\n{expanded}"

record = []
with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:

    def add(path, content, mode=0o644):
        # The earliest time that the format has: wheels of the same programs are the same bytes.
        entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
        entry.external_attr = (0o100000 | mode) << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record.append(f"{path},sha256={digest},{len(content)}\n")

    for path in sorted(pathlib.Path(programs).iterdir()):
        add(f"{stem}.data/scripts/{path.name}", path.read_bytes(), 0o755)
    for path in licences:
        add(f"{stem}.dist-info/licenses/{path.name}", path.read_bytes())
    add(f"{stem}.dist-info/METADATA", metadata.encode())
    add(f"{stem}.dist-info/WHEEL", about.encode())
    path = f"{stem}.dist-info/RECORD"
    archive.writestr(zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0)), "".join(record) + f"{path},,\n")
