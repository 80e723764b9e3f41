"""What a notebook calls: exercises that check themselves, the source of the real kernels, pictures and measurements."""
from course.lab.access import draw_access
from course.lab.bench import bench
from course.lab.check import check
from course.lab.convolution import draw_boxes, draw_im2col, draw_step, draw_terms
from course.lab.errors import draw_errors
from course.lab.gpu import draw_gpu
from course.lab.hints import hint, solution
from course.lab.interpret import interpreted
from course.lab.lines import plot_lines
from course.lab.models import draw_chain, gallery, measured, plot_errors
from course.lab.numbers import draw_formats, draw_number_line
from course.lab.online import draw_online
from course.lab.profile import profile
from course.lab.record import record
from course.lab.roofline import roofline
from course.lab.sanitizer import sanitize
from course.lab.scores import draw_scores
from course.lab.source import show_source
from course.lab.speed import copy_bandwidth, hardware
from course.lab.tiles import draw_tiles
from course.lab.timed import timed
from course.lab.timeline import draw_timeline
from course.lab.trace import trace
from course.lab.traffic import draw_traffic

__all__ = [
    "bench", "check", "copy_bandwidth", "draw_access", "draw_boxes", "draw_chain", "draw_errors", "draw_formats",
    "draw_gpu", "draw_im2col", "draw_number_line", "draw_online", "draw_scores", "draw_step", "draw_terms",
    "draw_tiles", "draw_timeline", "draw_traffic", "gallery", "hardware", "hint", "interpreted", "measured",
    "plot_errors", "plot_lines", "profile", "record", "roofline", "sanitize", "show_source", "solution", "timed",
    "trace",
]  # fmt: skip
