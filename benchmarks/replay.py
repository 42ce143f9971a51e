"""What exact replay of answers saves: agents' transcripts, in the shapes of three protocols, and a real tokenizer.

    python -m benchmarks.replay

Prints a Markdown table. Nothing is computed: the figures are tokens of the turns after the first that are not in the KV
of the turn before, with and without replay, and how many of them are new in fact. The transcripts are the tests' own;
the answers in them are cut into tokens as a model may and a tokenizer would not.
"""

from benchmarks.report import Report, benchmark
from ds4trio.chat import ChatModel
from ds4trio.chat.replay import ReplayMemory
from ds4trio.engine.llama.model import Model, ModelTokenizer, load_model
from tests.chat.replay.agents import AGENTS
from tests.chat.replay.transcripts import CHATML, SPECIAL, TRANSCRIPTS, Server, Turn, play


def prefilled(model: Model, shape: str, transcript: tuple[Turn, ...], *, replay: bool, thinking: bool) -> Server:
    """A server after the transcript; its ``fresh`` are the tokens of each turn that had to be computed."""
    vocabulary = model.vocabulary
    chat = ChatModel(
        CHATML.replace("KEPT", ""),
        special_tokens=vocabulary.special,
        control_tokens=vocabulary.control,
        memory=ReplayMemory() if replay else None,
    )
    server = Server(chat, ModelTokenizer(model, lambda: None), SPECIAL)
    play(server, shape, transcript, thinking=thinking)
    return server


@benchmark("replay")
async def main(report: Report, model: str) -> None:
    """Play the transcripts."""
    with load_model(model, n_gpu_layers=0, on_progress=lambda _: True) as loaded:
        for name, transcript in TRANSCRIPTS.items():
            for thinking in (True, False) if name == "reasoning" else (False,):
                without, with_replay = (
                    [
                        sum(prefilled(loaded, shape, transcript, replay=replay, thinking=thinking).fresh[1:])
                        for shape in AGENTS
                    ]
                    for replay in (False, True)
                )
                returned = (" returned" if thinking else " dropped") if name == "reasoning" else ""
                report.add(
                    f"{name}{returned}: tokens prefilled in turns after the first ({', '.join(AGENTS)})",
                    f"{', '.join(map(str, with_replay))}; without replay {', '.join(map(str, without))}",
                    "fewer",
                    all(map(int.__lt__, with_replay, without)),
                )


if __name__ == "__main__":
    main()
