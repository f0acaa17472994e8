"""Pictures and sound in and out of files: the only package that knows a codec library.

What comes in was made by strangers. Files are opened by absolute path, as one of a few formats and by no protocol
but plain files (a playlist cannot name other files or hosts); size, duration and frames are checked while decoding.
Whatever is wrong with a file is a MediaError with a kind; an OSError means this machine, not the file.

Time 0 is the instant of the file's first picture (of its first sound where it has no picture), for pictures and
sound alike: lips and voice stay together wherever the container says it starts.
"""

from dualforce_model.media.container import MediaError, MediaKind, MediaLimits
from dualforce_model.media.picture import Cutter, Picture, framed, small
from dualforce_model.media.pictures import Probe, measured_duration_s, probe, read_frames, read_image, read_pictures
from dualforce_model.media.sound import read_sound
from dualforce_model.media.writing import write_image, write_video, write_wav

__all__ = [
    "Cutter",
    "MediaError",
    "MediaKind",
    "MediaLimits",
    "Picture",
    "Probe",
    "framed",
    "measured_duration_s",
    "probe",
    "read_frames",
    "read_image",
    "read_pictures",
    "read_sound",
    "small",
    "write_image",
    "write_video",
    "write_wav",
]
