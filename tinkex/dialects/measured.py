"""Measurements of running servers: the evidence for fields of their dialects, with release and day.

A part of a field is named with a dot: `sampling.stops`, `missing.forward`. Fields that are not
listed were read in the server's source code, as the dialect's `source` says.
"""

from __future__ import annotations

from collections.abc import Mapping

from tinkex.dialects.dialect import Evidence

_SURVEY = "2026-11-23"
_WITH_A_RUN = "November 2026"  # a whole job of this client; the day was not recorded
_TEST_SERVERS = "2026-11-29"  # scripts/test_servers.py

_MEASUREMENTS: tuple[tuple[str, str, str, Mapping[str, str]], ...] = (
    (
        "skyrl-0.3",
        "0.3.0",
        _TEST_SERVERS,
        {
            "seq_id_repeats": (
                "one optim_step sent twice under one number was applied twice: the loss moved by "
                "3.04 nats"
            ),
            "resume": (
                "a model made by weights_info, create_model and load_weights continued like the "
                "one that was saved"
            ),
            "splits_batches": "two steps in chunks of one datum had the loss of two whole ones",
            "sampling.base_models": (
                "while a trained model was loaded, the base model's logprobs were those of "
                "transformers, to 1e-6 nats"
            ),
            "loads_keep_optimizer": (
                "a model loaded without the optimizer's state made the next step with it"
            ),
            "loads_are_true": "a model's second save_weights was loaded as it was saved",
        },
    ),
    (
        "skyrl-0.3",
        "0.3.0",
        _WITH_A_RUN,
        {
            "overtakes": "an optim_step was read before gradients that were sent earlier",
        },
    ),
    (
        "skyrl",
        "main of 2026-08-21",
        _WITH_A_RUN,
        {
            "overtakes": "an optim_step was read before gradients that were sent earlier",
            "bare_archive_ids": "the archive's route took the bare name of a checkpoint",
        },
    ),
    (
        "open-rl-old",
        "2026-04-29",
        _SURVEY,
        {
            "encodings": "a protobuf body was answered 500, JSON was read",
            "hold": "a poll of an unknown id was held for 60 s",
            "seq_id_repeats": "the same number twice gave two gradients",
            "missing.list_training_runs": "404",
            "missing.get_training_run": "404",
            "missing.get_weights_info": "404",
            "missing.list_checkpoints": "404",
            "missing.list_user_checkpoints": "404",
            "missing.list_sessions": "404",
            "missing.get_session": "404",
            "sampling.base_models": (
                "a sample of a base model was refused: 400, its adapter is not found"
            ),
            "sampling.prompt_logprobs": "none were returned",
        },
    ),
    (
        "open-rl-old",
        "2026-04-29",
        _WITH_A_RUN,
        {
            "missing.forward": "404",
            "forwards_by_zero_weights": (
                "a forward_backward of cross_entropy with all weights 0 gave the same logprobs, "
                "and no gradient"
            ),
            "asks_to_save_optimizer": (
                "a resumed run had a reset optimizer; with include_optimizer it continued like the "
                "original one"
            ),
            "sampling.stops": "samples continued past stop tokens",
        },
    ),
    (
        "tuft",
        "2026-08-20",
        _SURVEY,
        {
            "encodings": "a JSON batch was refused: 415",
            "seq_id_order": "a number out of order failed: 409, expected N, got M",
            "seq_id_repeats": "a repeated number failed: 409, expected 3, got 2",
            "missing.forward": "404",
        },
    ),
    (
        "tuft",
        "2026-08-20",
        _WITH_A_RUN,
        {
            "failed": "failed futures were answered 400, 403, 404, 409 and 422",
            "fails_by_kind": "failed futures were answered 400, 403, 404, 409 and 422",
            "failed_step_keeps_number": (
                "after a failed call the server expected its number from the next one"
            ),
        },
    ),
    (
        "tuft",
        "tuft 0.2.2",
        _TEST_SERVERS,
        {
            "seq_id_repeats": (
                "one optim_step sent twice under one number was applied once; the repeat was "
                "accepted and its future failed"
            ),
            "resume": (
                "a model made by weights_info, create_model and load_weights continued like the "
                "one that was saved"
            ),
            "loads_keep_optimizer": (
                "a model loaded without the optimizer's state made the next step without it"
            ),
            "saves_once": "a second save_weights was loaded as it was saved",
        },
    ),
    (
        "tinker-cloud-old",
        "2026-08-06",
        _SURVEY,
        {
            "pending": "a pending future was answered 408 at once",
            "hold": "a pending future was answered 408 at once",
            "failed": "400",
            "missing.get_client_config": "404",
            "missing.health": "404; it answers at /health",
            "missing.list_training_runs": "404",
            "missing.list_checkpoints": "404",
            "missing.list_user_checkpoints": "404",
            "missing.load_weights": "200 with an error",
        },
    ),
    (
        "tinker-cloud-old",
        "2026-08-06",
        _WITH_A_RUN,
        {
            "tells_rank": "weights_info gave lora_rank null in a new process",
            "sampling.base_models": (
                "the base model's logprobs were those of the first model in training, 2.8 nats off"
            ),
        },
    ),
    (
        "twinkle",
        "2026-07-22 on mock backends",
        _SURVEY,
        {
            "missing.get_client_config": "404",
            "missing.list_user_checkpoints": "404",
            "missing.list_sessions": "404",
            "missing.get_session": "404",
        },
    ),
    (
        "twinkle",
        "2026-07-22 on mock backends",
        _WITH_A_RUN,
        {
            "bearer": "the tenant was the bearer token",
            "pads_logprobs": "a forward returned logprobs of the padded length",
            "sampling.names_base": (
                "a sample was refused if its session was made from only a path: 400, base_model is "
                "required"
            ),
        },
    ),
    (
        "hatchery",
        "2026-07-10",
        _SURVEY,
        {
            "encodings": "a protobuf body was answered 500, JSON was read",
            "unloads_by_query": "an unload_model with the id in its body was refused: 422",
            "resume": (
                "a model made by weights_info, create_model and load_weights could be trained"
            ),
            "missing.list_training_runs": "404",
            "missing.get_training_run": "404",
            "missing.list_user_checkpoints": "404",
            "missing.list_sessions": "404",
            "missing.get_session": "404",
            "sampling.saved_names": (
                "a sampling session of weights saved under a name was answered 500"
            ),
            "sampling.top_p_off": (
                "one sample at temperature 1 and top_p 1 was greedy, seed or not; at 0.999999 it "
                "was not"
            ),
            "sampling.top_k_off": (
                "a top_k of 0 or less was taken for 50, and one over 1000 was refused"
            ),
        },
    ),
    (
        "hatchery",
        "2026-07-10",
        _WITH_A_RUN,
        {
            "splits_batches": (
                "a batch in chunks of one datum trained differently from the whole: the losses "
                "were 23 nats apart after 6 steps"
            ),
        },
    ),
    (
        "hatchery",
        "hatchery-core 0.3.0",
        _TEST_SERVERS,
        {
            "seq_id_repeats": (
                "one optim_step sent twice under one number was applied twice: the loss moved by "
                "1.85 nats"
            ),
            "saves_once": "a second save_weights was loaded as the first, 2.29 nats off",
        },
    ),
)
"""Measurements: the dialect, the server's release, the day, and the observations by field."""


def evidence_of(name: str) -> Mapping[str, Evidence]:
    """Returns the measured evidence for the dialect of this name, by field."""
    return {
        field: Evidence("measured", release, day, saw)
        for dialect, release, day, seen in _MEASUREMENTS
        if dialect == name
        for field, saw in seen.items()
    }
