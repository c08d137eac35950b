"""Speech with the exact time of every phoneme, from the espeak-ng library (Debian package `libespeak-ng1`)."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

LIBRARY = "libespeak-ng.so.1"
# Constants of espeak-ng's speak_lib.h.
_RETRIEVE_SAMPLES = 1
_WITH_PHONEME_EVENTS = 1
_CHARACTERS = 1
_UTF8 = 1
_RATE, _PITCH, _PITCH_RANGE = 1, 3, 4
_EVENT_END_OF_LIST, _EVENT_PHONEME = 0, 7
_STRESS_AND_LENGTH_MARKS = "'%,=_:; "


@dataclass(frozen=True)
class Voice:
    """How a person sounds."""

    name: str
    """espeak-ng voice, with variant."""
    words_per_minute: int
    pitch: int
    """0..100, 50 is the voice's own."""


@dataclass(frozen=True)
class Phoneme:
    """A sound in espeak-ng's notation without stress marks; the empty name is a pause."""

    start_s: float
    end_s: float
    name: str


@dataclass(frozen=True)
class Utterance:
    """A spoken line."""

    samples: npt.NDArray[np.float32]
    """(n_samples,) mono, -1..1."""
    rate_hz: int
    phonemes: tuple[Phoneme, ...]

    @property
    def duration_s(self) -> float:
        """Length of the sound."""
        return len(self.samples) / self.rate_hz


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """The library, which has one state a process; obtained through `espeak()`."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise SystemExit(f"{LIBRARY} is missing: install the Debian package libespeak-ng1") from error
        self.rate_hz = int(self._library.espeak_Initialize(_RETRIEVE_SAMPLES, 0, None, _WITH_PHONEME_EVENTS))
        if self.rate_hz <= 0:
            raise SystemExit("espeak-ng found no voices: install the Debian package espeak-ng-data")
        self._chunks: list[npt.NDArray[np.int16]] = []
        self._marks: list[tuple[int, str]] = []
        self._callback = _Callback(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(
        self, samples: ctypes._Pointer[ctypes.c_short], n_samples: int, events: ctypes._Pointer[_Event]
    ) -> int:
        if n_samples > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (n_samples,)).copy())
        index = 0
        while events[index].type != _EVENT_END_OF_LIST:
            if events[index].type == _EVENT_PHONEME:
                name = events[index].id.string.decode("utf-8", "replace").strip(_STRESS_AND_LENGTH_MARKS)
                self._marks.append((events[index].sample, name))
            index += 1
        return 0

    def say(self, text: str, voice: Voice) -> Utterance:
        """Speak a line. Raises: SystemExit if the voice is not installed."""
        self._chunks, self._marks = [], []
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise SystemExit(f"espeak-ng has no voice {voice.name}")
        for parameter, value in ((_RATE, voice.words_per_minute), (_PITCH, voice.pitch), (_PITCH_RANGE, 60)):
            self._library.espeak_SetParameter(parameter, value, 0)
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, _CHARACTERS, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        samples = np.concatenate(self._chunks).astype(np.float32) / 32768
        ends = [sample for sample, _ in self._marks[1:]] + [len(samples)]
        return Utterance(
            samples,
            self.rate_hz,
            tuple(
                Phoneme(start / self.rate_hz, end / self.rate_hz, name)
                for (start, name), end in zip(self._marks, ends, strict=True)
            ),
        )


@cache
def espeak() -> Espeak:
    """The process's only instance."""
    return Espeak()
