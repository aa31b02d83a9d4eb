// Refuses messages that are longer than the settings file allows. `rule.h` is generated from `wit/`.

#include "rule.h"

#include <stdio.h>
#include <string.h>

// The number of a publication among the kinds of the interface.
enum { PUBLISH = 1 };

enum { BYTES_MAX_LIMIT = 65536, CODE_TOO_LONG = 413 };

static unsigned long bytes_max;

// Reads the settings, which come as JSON without spaces. One number needs no JSON library.
static bool read_settings(const rule_string_t *settings) {
    char text[64];
    if (settings->len >= sizeof text) return false;
    memcpy(text, settings->ptr, settings->len);
    text[settings->len] = '\0';
    int end = 0;
    sscanf(text, "{\"bytes_max\":%lu}%n", &bytes_max, &end);
    return (size_t)end == settings->len && bytes_max >= 1 && bytes_max <= BYTES_MAX_LIMIT;
}

// Runs once, before any message. The error is the reason why the plugin is refused.
bool exports_gateway_plugin_configure_call(rule_string_t *settings, rule_string_t *error) {
    bool valid = read_settings(settings);
    rule_string_free(settings);
    if (!valid) {
        rule_string_dup(error, "expected one setting, bytes_max, from 1 to 65536");
        return false;
    }
    gateway_plugin_interests_kind_t kinds[] = {PUBLISH};
    gateway_plugin_interests_list_kind_t publish = {kinds, 1};
    gateway_plugin_interests_error_t refused;
    return gateway_plugin_interests_kinds(&publish, &refused);
}

// Runs for every publication. `next` leaves the decision to later plugins and to the channel.
void exports_gateway_plugin_on_message_call(
    uint64_t connection,
    exports_gateway_plugin_on_message_kind_t kind,
    rule_list_u8_t *payload,
    exports_gateway_plugin_on_message_verdict_t *verdict
) {
    size_t bytes = payload->len;
    rule_list_u8_free(payload);
    if (bytes <= bytes_max) {
        verdict->tag = GATEWAY_PLUGIN_TYPES_VERDICT_NEXT;
        return;
    }
    char reason[64];
    snprintf(reason, sizeof reason, "%zu bytes, and %lu are allowed", bytes, bytes_max);
    verdict->tag = GATEWAY_PLUGIN_TYPES_VERDICT_DENY;
    verdict->val.deny.code = CODE_TOO_LONG;
    // The gateway reads the reason after this function has returned, and has it freed then.
    rule_string_dup(&verdict->val.deny.reason, reason);
}
