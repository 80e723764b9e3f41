"""The functions of `course.lab`, and the modules that they are in."""
from course.lab.checking.check import check as check
from course.lab.checking.hints import hint as hint, solution as solution
from course.lab.interpret.observe import interpreted as interpreted
from course.lab.interpret.trace import trace as trace
from course.lab.measuring.bench import bench as bench
from course.lab.measuring.profile import profile as profile
from course.lab.measuring.record import record as record
from course.lab.measuring.sanitizer import sanitize as sanitize
from course.lab.measuring.speed import copy_bandwidth as copy_bandwidth
from course.lab.measuring.timed import timed as timed
from course.lab.pictures.access import draw_access as draw_access
from course.lab.pictures.convolution import draw_boxes as draw_boxes, draw_im2col as draw_im2col
from course.lab.pictures.convolution import draw_step as draw_step, draw_terms as draw_terms
from course.lab.pictures.errors import draw_errors as draw_errors
from course.lab.pictures.gpu import draw_gpu as draw_gpu
from course.lab.pictures.lines import plot_lines as plot_lines
from course.lab.pictures.models import draw_chain as draw_chain, gallery as gallery
from course.lab.pictures.models import measured as measured, plot_errors as plot_errors
from course.lab.pictures.numbers import draw_formats as draw_formats, draw_number_line as draw_number_line
from course.lab.pictures.online import draw_online as draw_online
from course.lab.pictures.roofline import roofline as roofline
from course.lab.pictures.scores import draw_scores as draw_scores
from course.lab.pictures.source import show_source as show_source
from course.lab.pictures.tiles import draw_tiles as draw_tiles
from course.lab.pictures.timeline import draw_timeline as draw_timeline
from course.lab.pictures.traffic import draw_traffic as draw_traffic
from course.results import hardware as hardware
