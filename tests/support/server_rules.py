"""The rules for a client that is to work with every server, by number. A test that holds one is
marked `@pytest.mark.rule(number)`.

docs/servers.md is made of this table, of those marks, and of the dialects.
"""

from __future__ import annotations

RULES: dict[int, str] = {
    1: (
        "Ask once per base URL what the server is. An optional call that it lacks is never an "
        "error."
    ),
    2: (
        "Send the fewest fields. One that a 422 calls unknown, and whose value says nothing, is "
        "left out from then on, with a warning; one that the user set is not."
    ),
    3: (
        "Send all the same what some servers need: every sampling parameter, dtype and shape, "
        "weights for cross_entropy, one text chunk and not several."
    ),
    4: (
        "Learn the encoding of batches by the first one that is taken; the second try has the "
        "same seq_id. Compress only where the server says so."
    ),
    5: (
        "A forward in JSON goes to /forward, never to forward_backward with a flag that a server "
        "may not know."
    ),
    6: "Ask for both forms of a result, and read the one that its Content-Type names.",
    7: 'Know every form of "not yet"; pause between polls that come back fast; bound the whole.',
    8: 'Know every form of "failed", at once and for good, with the server\'s own words.',
    9: (
        "Never poll one result from two places. A lost result of a sample is sampled again; that "
        "of a step is raised."
    ),
    10: (
        "Number from 1 without a gap, send one after the other, and several together only where "
        "the server says so. Take the number that a strict server expects."
    ),
    11: "Send a step again only where it is certain that it cannot be applied twice.",
    12: (
        "What an answer may lack it may lack: sequence ids, logprobs, sequences, known stop "
        "reasons."
    ),
    13: (
        "Make a model from a checkpoint in the way that the server has: by session, or "
        "weights_info, create_model and load_weights as the first request."
    ),
    14: "Find the tokenizer by what is known of the model; get_info may be missing or say little.",
    15: "An ephemeral sampler is found by its id, else by its path, whatever the path looks like.",
    16: (
        "Any key or none; X-API-Key, and Authorization: Bearer where the other is refused; a "
        "request id. Heartbeats know a session that is gone."
    ),
    17: (
        "Read every form of error, every 2xx, unknown values and fields, metrics of any name, "
        "outputs of any kind."
    ),
    18: "Keep to the server's limits of chunks, bodies, datums and samples; a limit of 0 is none.",
    19: (
        "Refuse a loss that the server would train as another one; say where a loss is not what "
        "it is elsewhere; custom losses work everywhere."
    ),
    20: "Say what a server is: `service.server` shows all of this.",
}
