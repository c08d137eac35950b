"""Joins shots into one file with sound."""

from __future__ import annotations

import tempfile
import wave
from collections.abc import Iterable, Sequence
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from demo.mouth import FPS
from demo.scenes import HEIGHT_PX, WIDTH_PX, Spoken

Sound = npt.NDArray[np.float64]

PEAK = 0.6
ROOM_NOISE = 0.0004
"""Root mean square of the hiss under everything: -68 dBFS."""
CRF = 25
AUDIO_RATE_HZ = 48_000


def shot_sound(spoken: Sequence[Spoken], n_frames: int, rate_hz: int) -> Sound:
    """The shot's speech, each line brought to the same peak; (n_frames * rate_hz / 25,) in -1..1."""
    sound = np.zeros(n_frames * rate_hz // FPS)
    for line in spoken:
        start = round(line.start_s * rate_hz)
        samples = line.utterance.samples[: len(sound) - start]
        sound[start : start + len(samples)] += PEAK * samples / np.abs(samples).max()
    return sound


def in_a_room(sound: Sound, rate_hz: int, rng: np.random.Generator) -> Sound:
    """Add a few early reflections (10 to 70 ms) and a faint hiss."""
    response = np.zeros(round(0.07 * rate_hz))
    response[0] = 1
    delays = rng.integers(round(0.01 * rate_hz), len(response), 14)
    response[delays] += 0.08 * rng.standard_normal(14) * np.exp(-delays / (0.04 * rate_hz))
    wet = np.convolve(sound, response)[: len(sound)]
    return np.clip(wet + ROOM_NOISE * rng.standard_normal(len(sound)), -1, 1)


def write_film(path: Path, frames: Iterable[npt.NDArray[np.uint8]], sound: Sound, rate_hz: int) -> None:
    """H.264 and AAC in MP4; one encoder thread, so that the same frames give the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "sound.wav"
        with wave.open(str(wav), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate_hz)
            file.writeframes((sound * 32767).astype("<i2").tobytes())
        pictures = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{WIDTH_PX}x{HEIGHT_PX}", r=FPS)
        process = (
            ffmpeg.output(
                pictures.video,
                ffmpeg.input(str(wav)).audio,
                str(path),
                vcodec="libx264",
                preset="medium",
                crf=CRF,
                pix_fmt="yuv420p",
                threads=1,
                acodec="aac",
                audio_bitrate="96k",
                ar=AUDIO_RATE_HZ,
                movflags="+faststart",
                fflags="+bitexact",
                **{"flags:v": "+bitexact", "flags:a": "+bitexact"},
            )
            .global_args("-loglevel", "error")
            .overwrite_output()
            .run_async(cmd=imageio_ffmpeg.get_ffmpeg_exe(), pipe_stdin=True)
        )
        for frame in frames:
            process.stdin.write(frame.tobytes())
        process.stdin.close()
        if process.wait() != 0:
            raise SystemExit(f"ffmpeg could not write {path}")
