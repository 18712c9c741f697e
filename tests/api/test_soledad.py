"""The acceptance list: what Soledad's own tests check, the test of ours for each, and its 52 known faults.

A row is (what is expected, our test). Invariant: what is named exists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parents[1]
Rows = tuple[tuple[str, str], ...]

ATTACHMENTS: Final[Rows] = (
    ("a document knows the account that made it", "api/test_usage::the_same_without_async"),
    ("a new document has the state NONE and is not dirty", "api/test_usage::the_same_without_async"),
    ("the pointer lasts only once the document is put", "api/test_named::nothing_is_stored_before_the_document_is_put"),
    (
        "put_attachment ends when the local store has it, without a server",
        "api/test_acceptance::an_attachment_is_put_without_a_server_and_sent_when_there_is_one",
    ),
    ("an attachment comes back as it went", "api/test_attachments::an_attachment_comes_from_anything_that_gives_bytes"),
    (
        "get_attachment is None when nothing is attached",
        "api/test_acceptance::a_document_without_an_attachment_answers_none_to_every_call",
    ),
    (
        "upload and download give the state, NONE when nothing is attached",
        "api/test_acceptance::a_document_without_an_attachment_answers_none_to_every_call",
    ),
    (
        "what is not here is fetched from the server",
        "api/test_attachments::an_attachment_is_fetched_on_another_device_when_it_is_read",
    ),
    (
        "delete_attachment takes pointer and bytes away",
        "api/test_attachments::a_deleted_attachment_is_gone_once_the_document_is_put",
    ),
    ("is_dirty compares with what is stored", "api/test_documents::a_change_is_dirty_until_it_is_put"),
    (
        "states are flags: LOCAL, REMOTE, SYNCED is both",
        "api/test_usage::a_document_gets_an_attachment_and_both_are_uploaded",
    ),
    (
        "an attachment that is not put cannot be uploaded",
        "api/test_attachments::an_attachment_that_was_not_put_cannot_be_uploaded",
    ),
)

MANAGER: Final[Rows] = (
    ("put, then get gives the bytes", "api/test_blobs::a_blob_is_put_once_read_and_deleted"),
    ("put refuses an id that is there", "api/test_blobs::a_blob_is_put_once_read_and_deleted"),
    ("get of nothing is BlobNotFound", "api/test_blobs::a_blob_is_put_once_read_and_deleted"),
    (
        "get takes the local bytes first, the server's else",
        "api/test_blobs::a_blob_travels_with_its_flags_and_is_fetched_when_it_is_read",
    ),
    (
        "a namespace is a world of its own for put, get, list, count, delete",
        "api/test_blobs::one_id_is_another_blob_in_another_namespace",
    ),
    ("lists: local, by status, by flag, ordered, counted", "api/test_blobs::lists_are_ordered_and_come_in_pages"),
    ("listing the server: by date, both ways", "server/test_server_blobs::a_list_goes_page_by_page_in_every_order"),
    ("local_only stays here", "api/test_blobs::what_is_local_only_stays_so_until_it_is_told_otherwise"),
    ("send_missing sends what the server lacks", "api/test_blobs::offline_puts_and_deletions_wait_and_are_sent_later"),
    (
        "fetch_missing fetches what is not here",
        "api/test_blobs::fetch_missing_begins_with_what_is_urgent_and_passes_over_what_is_corrupt",
    ),
    (
        "a deletion reaches the server and other devices",
        "api/test_blobs::a_blob_travels_with_its_flags_and_is_fetched_when_it_is_read",
    ),
    (
        "an offline deletion is PENDING_DELETE until it is told",
        "api/test_blobs::offline_puts_and_deletions_wait_and_are_sent_later",
    ),
    ("sync_progress counts by status", "api/test_blobs::offline_puts_and_deletions_wait_and_are_sent_later"),
    (
        "a corrupt blob becomes FAILED_DOWNLOAD and is not tried for ever",
        "api/test_blobs::fetch_missing_begins_with_what_is_urgent_and_passes_over_what_is_corrupt",
    ),
    (
        "passing faults are retried, with longer and longer waits",
        "remote/test_retry::the_bound_doubles_up_to_the_longest_and_begins_anew",
    ),
    ("connections that are cut are tried again", "sync/test_failures::connections_that_are_cut_cost_nothing_but_time"),
    (
        "flags are set, replaced, read; others are InvalidFlags",
        "api/test_blobs::flags_are_four_and_lists_can_ask_for_one",
    ),
    ("statuses of HTTP become errors of ours", "remote/test_client::a_status_becomes_an_error_of_ours"),
    ("a full account fails the upload and says so", "api/test_blobs::an_account_that_is_full_says_so_of_each_blob"),
    ("large and concurrent transfers do not mix", "sync/test_engine::many_small_files_share_requests"),
    ("closing ends whatever waits", "api/test_events::whoever_waits_is_told_when_the_account_is_closed"),
)

PRIORITIES: Final[Rows] = (
    ("four priorities, by name or number; others are refused", "api/test_blobs::priorities_have_names_and_numbers"),
    ("uploads go by priority", "api/test_blobs::uploads_go_by_priority"),
    (
        "downloads go by priority, looked up anew before each",
        "api/test_blobs::fetch_missing_begins_with_what_is_urgent_and_passes_over_what_is_corrupt",
    ),
    (
        "a priority can be changed while it waits",
        "api/test_blobs::priorities_have_names_and_numbers",
    ),
)

LOCAL_STORE: Final[Rows] = (
    ("what is put exists; a deleted one does not", "api/test_blobs::a_blob_is_put_once_read_and_deleted"),
    ("ids and statuses are listed by namespace", "api/test_blobs::one_id_is_another_blob_in_another_namespace"),
    (
        "many statuses change at once",
        "api/test_acceptance::more_blobs_than_a_statement_has_variables_are_listed_counted_and_deleted",
    ),
    ("an old schema is brought up to date at open", "formats/test_samples::a_store_shows_every_name_and_byte"),
    ("several threads use one store", "store/test_threads::workers_and_the_loop_never_see_half_of_a_transaction"),
    ("a large payload is written piece by piece", "api/test_attachments::a_large_attachment_takes_little_memory"),
    ("the file opens with its key only", "store/test_secrecy::another_key_opens_nothing"),
    ("a write that was cut off is not there", "store/test_ledger::a_heavy_write_is_there_whole_or_not_at_all"),
)

DECRYPTER: Final[Rows] = (
    (
        "a stream of sealed blobs is taken apart in order",
        "server/test_server_stream::a_thousand_small_blobs_go_up_and_come_down_in_order",
    ),
    ("in pieces of any size", "sync/test_inbox::an_item_opens_however_its_bytes_arrive"),
    ("a blob comes back from its seal; ranges of it too", "values/test_crypto::a_range_of_frames_opens_to_its_part"),
    ("a changed tag, byte or length is found", "values/test_crypto::each_flipped_bit_of_a_blob_is_found"),
    ("a preamble of another form is refused", "values/test_framing::only_the_one_preamble_of_a_length_is_taken"),
    (
        "scheme and method are what they must be",
        "values/test_crypto::every_other_version_scheme_method_and_frame_size_is_refused",
    ),
    (
        "a sealed document opens under its own id and revision only",
        "values/test_crypto::a_document_under_any_other_claim_is_refused",
    ),
)

BACKEND: Final[Rows] = (
    (
        "the path: user, namespace, prefix, id",
        "server/test_server_blobs::a_blob_stands_at_its_path_as_it_came_and_closed_to_others",
    ),
    ("written blobs are read whole and by range", "contract/test_backend_contract::any_range_can_be_read_in_any_order"),
    (
        "users, namespaces and ids do not meet",
        "contract/test_backend_contract::users_and_namespaces_and_ids_are_kept_apart",
    ),
    (
        "a size is known, a missing blob has none",
        "contract/test_backend_contract::a_published_blob_is_there_with_its_size",
    ),
    (
        "an existing blob is not written again",
        "server/test_server_blobs::a_second_creator_is_told_that_the_blob_exists",
    ),
    ("of two writers at once one wins", "server/test_server_blobs::of_two_racing_creators_exactly_one_wins"),
    ("lists by namespace, by flag, by date", "server/test_server_blobs::a_list_goes_page_by_page_in_every_order"),
    (
        "counts, by namespace and flag",
        "server/test_server_acceptance::counts_are_of_blobs_and_a_false_deleted_is_false",
    ),
    (
        "deleting leaves a mark and takes the flags",
        "server/test_server_blobs::deleted_blobs_are_listed_until_they_are_created_again",
    ),
    ("the whole is what quota counts", "server/test_server_quota::an_account_is_told_what_it_holds_and_may_hold"),
    (
        "over quota is refused, deleting makes room",
        "server/test_server_quota::deleting_gives_room_back_and_a_full_account_can_delete_documents",
    ),
    (
        "flags: set, get, replaced, invalid refused",
        "server/test_server_blobs::flags_are_replaced_filtered_and_compared",
    ),
    (
        "names outside of the grammar, and ways out of the directory, are refused",
        "server/test_server_access::no_route_takes_an_id_that_is_none",
    ),
    (
        "a link in the place of a blob is not followed",
        "contract/test_backend_contract::a_link_in_a_blobs_place_is_not_followed",
    ),
    ("empty directories go", "server/test_server_blobs::deleting_blobs_prunes_their_directories"),
)

SERVER: Final[Rows] = (
    (
        "PUT then GET, with digest in place of the tag, and length",
        "server/test_server_blobs::a_blob_comes_back_as_it_went_with_its_digest",
    ),
    ("409 for an id that is there", "server/test_server_blobs::a_second_creator_is_told_that_the_blob_exists"),
    ("404 for one that is not", "server/test_server_acceptance::what_is_not_there_is_404_by_every_method"),
    (
        "507 or its like over quota",
        "server/test_server_quota::of_many_parallel_uploads_exactly_as_many_as_fit_are_stored",
    ),
    ("ranges: 206, 416 with the size", "server/test_server_blobs::a_range_outside_or_malformed_is_416_with_the_size"),
    (
        "deleted blobs are listed for whoever synchronises",
        "server/test_server_blobs::deleted_blobs_are_listed_until_they_are_created_again",
    ),
    ("flags by POST, 406 in Soledad for others", "server/test_server_blobs::flags_are_replaced_filtered_and_compared"),
    ("streams up and down keep order and boundaries", "server/test_server_stream::large_and_small_items_mix"),
    (
        "a broken stream is 400, not 500",
        "server/test_server_stream::a_stream_that_breaks_the_framing_is_400_and_what_came_whole_counts",
    ),
    ("which of many ids are missing", "server/test_server_blobs::missing_names_those_that_are_not_there"),
    (
        "the page for everyone tells the version",
        "server/test_server_process::the_page_for_everyone_tells_version_and_limits_and_nothing_of_accounts",
    ),
    ("settings come from a file, with defaults", "server/test_server_config::every_key_reaches_its_setting"),
    ("an upload that is cut leaves nothing", "server/test_server_blobs::a_cut_upload_leaves_nothing"),
    (
        "another account's blobs are out of reach",
        "server/test_server_access::two_accounts_may_have_one_id_and_see_only_their_own",
    ),
    (
        "every error has a code and a sentence",
        "server/test_server_hostile::every_error_has_a_code_a_sentence_and_the_id_of_the_header",
    ),
)

AUTH: Final[Rows] = (
    ("Authorization: Token base64(user:token)", "values/test_protocol::an_authorization_comes_back_from_its_header"),
    ("noise in it is nobody", "values/test_protocol::noise_in_an_authorization_header_is_nobody"),
    ("a wrong or unknown token is refused", "server/test_server_access::each_route_refuses_whoever_is_not_the_account"),
    (
        "the user in the address is that of the token",
        "server/test_server_access::each_route_refuses_whoever_is_not_the_account",
    ),
    (
        "services have tokens that do their one thing only",
        "server/test_server_access::each_route_lets_in_exactly_the_scopes_that_it_is_for",
    ),
    (
        "tokens are kept as hashes and expire",
        "server/test_server_tokens::a_token_made_by_a_device_is_as_good_and_is_listed_without_its_text",
    ),
    (
        "a revoked one is refused at once",
        "server/test_server_access::a_revoked_or_expired_token_is_refused_by_the_next_request",
    ),
    (
        "resources refuse user, id or namespace that are none",
        "server/test_server_access::no_route_takes_an_id_that_is_none",
    ),
)

INCOMING: Final[Rows] = (
    (
        "a sender leaves an item, PENDING in its namespace",
        "server/test_server_documents::what_a_sender_drops_is_pending_in_the_incoming_namespace",
    ),
    (
        "a sender can do nothing else",
        "server/test_server_tokens::a_device_makes_a_token_with_which_things_can_be_left_and_nothing_else",
    ),
    (
        "the box is bounded, and counts towards quota",
        "server/test_server_incoming::what_waits_in_the_box_has_a_bound_of_its_own",
    ),
    (
        "pending items are taken, oldest first",
        "api/test_incoming::items_are_handed_out_once_oldest_first_and_saved_after_they_were_processed",
    ),
    (
        "an item is reserved before it is worked on; who loses skips it",
        "api/test_incoming::two_programs_on_two_devices_get_different_items",
    ),
    (
        "it is opened, processed, then saved, then goes",
        "api/test_incoming::items_are_handed_out_once_oldest_first_and_saved_after_they_were_processed",
    ),
    (
        "a failure of either is kept, and others go on",
        "api/test_incoming::what_fails_is_kept_with_its_reason_and_tried_again_by_a_newer_consumer",
    ),
    (
        "what does not open fails and is never handed out",
        "sync/test_inbox::what_was_not_sealed_for_this_item_of_this_account_fails_and_stays",
    ),
    ("without a server nothing is handed out", "api/test_incoming::without_the_server_a_consumer_is_told_so"),
    (
        "a consumer that ends midway is handed the item again",
        "api/test_incoming::a_consumer_that_is_killed_after_it_saved_can_see_that_it_did",
    ),
    ("without a consumer, items become files", "e2e/test_incoming::a_file_that_a_sender_leaves_is_in_the_mount_soon"),
)

SECRETS: Final[Rows] = (
    (
        "secrets are made once, wrapped, and come back",
        "values/test_keys::either_way_to_unlock_gives_the_secret_and_a_wrong_one_gives_nothing",
    ),
    ("the file's version and form are checked", "values/test_keys::what_is_no_secrets_file_is_refused"),
    (
        "a changed passphrase wraps anew, and the old one opens nothing",
        "door/test_unlock::a_changed_passphrase_leaves_no_copy_that_the_old_one_opens",
    ),
    (
        "it reaches the server and the next device",
        "door/test_first_run::a_changed_passphrase_reaches_the_server_and_the_next_device",
    ),
    (
        "local file, then the server's, then new ones",
        "door/test_first_run::a_second_device_needs_only_invite_and_passphrase",
    ),
    ("each key is derived for one purpose", "values/test_keys::all_keys_of_an_account_differ"),
    (
        "the cost of a guess is bounded below and above",
        "values/test_keys::a_hash_below_the_floor_or_over_the_ceiling_is_neither_read_nor_written",
    ),
    ("older secrets go on opening what they sealed", "values/test_epochs::the_newest_secret_opens_all_older_ones"),
)

PARTS: Final = (
    ATTACHMENTS, MANAGER, PRIORITIES, LOCAL_STORE, DECRYPTER, BACKEND, SERVER, AUTH, INCOMING, SECRETS,
)  # fmt: skip

FAULTS: Final[dict[int, str]] = {
    1: "values/test_crypto::every_other_version_scheme_method_and_frame_size_is_refused",
    2: "threats/test_traffic::nothing_that_is_made_of_the_passphrase_alone_goes_to_the_server",
    3: "values/test_keys::no_member_of_the_file_can_be_changed",
    4: "server/test_server_access::a_prefix_of_another_users_name_opens_nothing",
    5: "api/test_blobs::what_is_no_id_is_refused_everywhere",
    6: "values/test_protocol::what_is_no_id_is_refused",
    7: "server/test_server_quota::streams_documents_revisions_secrets_and_drops_all_count",
    8: "server/test_server_access::a_revoked_or_expired_token_is_refused_by_the_next_request",
    9: "threats/test_content::blobs_of_other_files_extents_and_versions_are_refused_in_every_pairing",
    10: "threats/test_content::a_blob_that_the_server_denies_is_missing_data_and_no_deletion",
    11: "values/test_extents::padme_is_the_published_formula_and_wastes_little",
    12: "store/test_raw_key::the_databases_open_with_their_raw_key_and_with_no_passphrase_of_that_text",
    13: "values/test_framing::only_the_one_preamble_of_a_length_is_taken",
    14: "api/test_attachments::what_was_put_survives_a_kill_and_what_was_only_staged_costs_nothing",
    15: "server/test_server_stream::a_thousand_small_blobs_go_up_and_come_down_in_order",
    16: "server/test_server_stream::large_and_small_items_mix",
    17: "server/test_server_process::sigkill_during_many_uploads_leaves_a_clean_catalog_and_all_that_was_acknowledged",
    18: "server/test_server_blobs::of_two_racing_creators_exactly_one_wins",
    19: "api/test_blobs::what_is_local_only_stays_so_until_it_is_told_otherwise",
    20: "api/test_blobs::a_blob_travels_with_its_flags_and_is_fetched_when_it_is_read",
    21: "api/test_blobs::offline_puts_and_deletions_wait_and_are_sent_later",
    22: "api/test_blobs::one_id_is_another_blob_in_another_namespace",
    23: "sync/test_inbox::a_device_that_dies_between_saving_and_telling_makes_no_second_file",
    24: "values/test_extents::a_dense_attachment_of_two_thousand_extents_comes_back",
    25: "api/test_usage::the_same_without_async",
    26: "api/test_acceptance::an_attachment_is_put_without_a_server_and_sent_when_there_is_one",
    27: "api/test_usage::a_document_gets_an_attachment_and_both_are_uploaded",
    28: "api/test_attachments::an_attachment_is_fetched_on_another_device_when_it_is_read",
    29: "api/test_acceptance::a_document_that_is_stored_no_more_is_dirty",
    30: "api/test_blobs::fetch_missing_begins_with_what_is_urgent_and_passes_over_what_is_corrupt",
    31: "values/test_crypto::a_document_under_any_other_claim_is_refused",
    32: "api/test_blobs::fetch_missing_begins_with_what_is_urgent_and_passes_over_what_is_corrupt",
    33: "sync/test_failures::a_poisoned_document_holds_up_nobody",
    34: "api/test_blobs::an_account_that_is_full_says_so_of_each_blob",
    35: "api/test_blobs::fetch_missing_begins_with_what_is_urgent_and_passes_over_what_is_corrupt",
    36: "api/test_acceptance::more_blobs_than_a_statement_has_variables_are_listed_counted_and_deleted",
    37: "server/test_server_blobs::a_range_is_answered_exactly",
    38: "server/test_server_app::a_failing_disk_is_503_and_leaves_neither_bytes_nor_reserved_room",
    39: "server/test_server_access::no_route_takes_an_id_that_is_none",
    40: "server/test_server_quota::of_many_parallel_uploads_exactly_as_many_as_fit_are_stored",
    41: "server/test_server_acceptance::counts_are_of_blobs_and_a_false_deleted_is_false",
    42: "server/test_server_acceptance::counts_are_of_blobs_and_a_false_deleted_is_false",
    43: "server/test_server_acceptance::what_is_not_there_is_404_by_every_method",
    44: "api/test_acceptance::names_of_calls_and_of_our_own_parts_are_ids_like_others",
    45: "api/test_attachments::a_large_attachment_takes_little_memory",
    46: "api/test_blobs::lists_are_ordered_and_come_in_pages",
    47: "door/test_first_run::two_devices_that_begin_one_account_at_once_end_in_one_account",
    48: "door/test_secrets::the_file_is_private_whatever_the_umask",
    49: "api/test_acceptance::no_class_passes_over_what_its_parent_sets_up",
    50: "remote/test_retry::a_throttle_keeps_its_rate",
    51: "values/test_framing::each_bit_of_a_preamble_counts",
    52: "api/test_attachments::a_deleted_document_takes_its_attachment_along",
}


def absent(named: Iterable[str]) -> list[str]:
    """Those of the named tests that are not there."""
    found = []
    for entry in named:
        path, _, name = entry.partition("::")
        file = TESTS / f"{path}.py"
        if not file.is_file() or not re.search(rf"def test_{name}\(", file.read_text(encoding="utf-8")):
            found.append(entry)
    return found


def test_every_behaviour_has_a_test_that_is_there() -> None:
    rows = [row for part in PARTS for row in part]
    assert len(rows) > 100
    assert absent(tests for _, tests in rows) == []


def test_every_known_fault_has_a_test_that_it_is_not_ours() -> None:
    assert sorted(FAULTS) == list(range(1, 53))
    assert absent(FAULTS.values()) == []
