#!/opt/hello/venv/bin/python
"""Say hello, with something from each layer of the image."""

import os
import subprocess

import cowsay

roll = subprocess.run(["/usr/games/rolldice", "3d6"], capture_output=True, text=True, check=True).stdout
cowsay.cow(f"{os.environ.get('GREETING', 'Hello')}: you rolled {roll.strip()}")
