"""What some tests need of the machine."""
import pytest

from course import runtime
from course.runtime import INTERPRET

needs_tma = pytest.mark.skipif(not INTERPRET and not runtime.tma_feeds_tensor_cores(), reason="needs TMA")
needs_hopper = pytest.mark.skipif(INTERPRET or runtime.capability() != (9, 0), reason="needs Hopper, uninterpreted")
