"""Filter: which stretches of a video become clips. Three steps that are one `--stage`.

- `filter.detect`: `ShotRun` -> one `Tracks` per shot. The run is decoded once, in order: faces into tracks, camera
  motion, light; voice activity from the sound. Everything that needs pixels happens here.
- `filter.select`: `Tracks` -> every `Candidate` of the shot with its verdict. Arithmetic only, so that thresholds move
  without looking at the video again.
- `filter.cut`: `CutJob` (a kept candidate) -> `Clip` with media of its own.

A candidate is a maximal interval in which exactly the same people are visible. It is rejected for the first of:
too_few_people, too_many_people, face_too_small (there would be enough people, counting small faces), face_sizes_differ,
camera_motion, too_short, no_audio, no_speech, still_picture, bystander (somebody else's face is almost as large).
In footage that shows everything twice (stereoscopic 3D without a tag) the right or lower view of a face is a bystander.
Thresholds follow the scripts of the MIT dataset (Zhu et al.) where they have one.
"""
