"One optimiser step: two micro-batches on two processes (lesson 09)."
from draw import Drawing

FIRST, SECOND = ("#0072B2", "#FFFFFF"), ("#E69F00", "#1A1A1A")


def draw() -> Drawing:
    d = Drawing(760, 230,
                "One optimiser step with accumulate 2 and batch_size 8 on two processes. Of the step's 16 rows, "
                "process 0 takes 0 to 3 "
                "and 8 to 11, process 1 takes 4 to 7 and 12 to 15. Each computes the gradients of its part of both "
                "micro-batches; "
                "all are added up and make one step of the optimiser, after which the average is updated.")
    d.text(24, 26, "TrainStep: size = 16 rows", 13, "start", bold=True)
    for process, (colour, ink) in enumerate((FIRST, SECOND)):
        d.grid(250 + 110 * process, 18, 16, [[colour]])
        d.text(274 + 110 * process, 26, f"process {process}", 12, "start")
        for micro in range(2):
            x, first = 24 + 240 * micro + 104 * process, 8 * micro + 4 * process
            d.grid(x, 74, 24, [[colour] * 4])
            for i in range(4): d.text(x + 24 * i + 12, 86, str(first + i), 11, colour=ink)
            d.arrow((x + 48, 98), (x + 48, 126))
            d.box(x, 126, 96, 34, "gradients", "net", 12)
            d.arrow((x + 48, 160), (x + 48, 192))
    for micro in range(2): d.text(124 + 240 * micro, 60, f"micro-batch {micro + 1}", 12)
    d.arrow((72, 192), (536, 192))
    d.text(500, 178, "added up", 12)
    d.box(536, 166, 106, 50, "one step of\nthe optimiser", "part", 12, bold=True)
    d.arrow((642, 192), (668, 192))
    d.box(668, 166, 76, 50, "average", "data", 12)
    return d
