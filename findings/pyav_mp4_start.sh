#!/usr/bin/env bash
# FFmpeg's MP4 files whose pictures start later than 0.
#
# Eight frames at 1/12000 s precision are written to an MP4 file, the first of them at 1750/12000 s = 0.145833 s, as a
# part of a longer film is. They should be read back at the same times. Seen with PyAV 18.1.0 (FFmpeg 8.1.2): every time
# is 0.83 ms early, because the start is stored as an empty edit in units of the movie's time scale, which is 1000
# whatever the time scale of the pictures. With the option movie_timescale=12000 the times are exact.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check av==18.1.0
"$folder/env/bin/python" - "$folder" <<'PY'
import sys
from fractions import Fraction

import av

unit = Fraction(1, 12_000)
times = [1750 + 500 * i for i in range(8)]


def read_back(options):
    path = f"{sys.argv[1]}/a.mp4"
    with av.open(path, "w", container_options=options) as out:
        stream = out.add_stream("libx264", rate=24, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = unit
        for pts in times:
            frame = av.VideoFrame(64, 48, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes([pts % 200 + 20]) * plane.buffer_size)
            frame.pts, frame.time_base = pts, unit
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with av.open(path) as file:
        return [frame.pts * frame.time_base for frame in file.decode(video=0)]


print("PyAV", av.__version__, "FFmpeg", av.ffmpeg_version_info)
off = {}
for name, options in (("default", {}), ("movie_timescale=12000", {"movie_timescale": "12000"})):
    off[name] = [float(found - pts * unit) * 1000 for found, pts in zip(read_back(options), times)]
    print(f"{name}: expected times off by 0 ms, found {min(off[name]):.3f} to {max(off[name]):.3f} ms")
sys.exit(int(not any(off["default"]) or any(off["movie_timescale=12000"])))
PY
