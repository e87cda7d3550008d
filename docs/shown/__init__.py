"""What the pages show of the commands is what the commands print: `python -m docs.shown --help`.

Two kinds of fenced blocks are filled in:

- one that begins with `Usage: busworker COMMAND`, on any page: the help text of that command;
- on a page with marks, every `console` block, and what a mark asks for. All blocks of a page are one session, in a
  folder of its own, from the top of the page to its end. A `busworker start` is left running, until it is stopped
  there, or the page ends. A page's blocks are replaced together, so that they are of one run, and only if one of them
  says something else than before: other times, ids, pids and the like are nothing else (`page.MASKS`).

Marks are comments right before a block, or alone, with one of these a line:

    <!-- shown: file hello.py -->      the block is written into that file, in the session's folder
    <!-- shown: log email -->          the block is what the service `email` has logged since it was last looked at
    <!-- shown: from 'TEXT' -->        the output is shown from the first line with that text on,
    <!-- shown: until 'TEXT' -->       up to the first line with that text, which is waited for; the command goes on
    <!-- shown: awaits 'executing' --> the last command of the block is run again until its output fits the expression
    <!-- shown: varies '\\d+' -->       what fits the expression may differ as well
    <!-- shown: not run -->            the block is left as it is
    <!-- shown: $ COMMAND -->          COMMAND is run before, and not shown
"""
