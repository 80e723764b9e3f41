"""The exercises, a module a chapter, named as the chapter's notebook; `course.lab` checks, hints and explains."""
