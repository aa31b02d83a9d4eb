// Turns messages of many capital letters into small ones. `rule.h` is generated from `wit/`.

const std = @import("std");
const c = @cImport(@cInclude("rule.h"));

const Settings = struct {
    // Most capital letters of a message that stays as it is.
    capitals_max: u32,
};

var settings = Settings{ .capitals_max = 0 };

// Runs once, before any message. The error is the reason why the plugin is refused.
export fn exports_gateway_plugin_configure_call(json: *c.rule_string_t, reason: *c.rule_string_t) bool {
    defer c.rule_string_free(json);
    var arena = std.heap.ArenaAllocator.init(std.heap.c_allocator);
    defer arena.deinit();
    settings = std.json.parseFromSliceLeaky(Settings, arena.allocator(), json.ptr[0..json.len], .{}) catch {
        c.rule_string_dup(reason, "expected one setting, capitals_max, a number from 0");
        return false;
    };
    // The number of a publication among the kinds of the interface.
    var publish = [_]c.gateway_plugin_interests_kind_t{1};
    var kinds = c.gateway_plugin_interests_list_kind_t{ .ptr = &publish, .len = publish.len };
    var refused: c.gateway_plugin_interests_error_t = undefined;
    return c.gateway_plugin_interests_kinds(&kinds, &refused);
}

// Runs for every publication. `next` leaves the decision to later plugins and to the channel.
export fn exports_gateway_plugin_on_message_call(
    connection: u64,
    kind: c.exports_gateway_plugin_on_message_kind_t,
    payload: *c.rule_list_u8_t,
    verdict: *c.exports_gateway_plugin_on_message_verdict_t,
) void {
    _ = .{ connection, kind };
    defer c.rule_list_u8_free(payload);
    verdict.tag = c.GATEWAY_PLUGIN_TYPES_VERDICT_NEXT;
    // What has no text stays as it is.
    const calm = calmed(payload.ptr[0..payload.len]) catch return orelse return;
    verdict.tag = c.GATEWAY_PLUGIN_TYPES_VERDICT_REPLACE;
    verdict.val.replace = .{ .ptr = calm.ptr, .len = calm.len };
}

// The message in small letters if it has too many capital ones. The gateway reads it after the hook has
// returned, and has it freed by C's `free` then.
fn calmed(payload: []const u8) !?[]u8 {
    var arena = std.heap.ArenaAllocator.init(std.heap.c_allocator);
    defer arena.deinit();
    var message = try std.json.parseFromSliceLeaky(std.json.Value, arena.allocator(), payload, .{});
    const members = if (message == .object) &message.object else return null;
    const text = members.get("text") orelse return null;
    if (text != .string) return null;
    var capitals: usize = 0;
    for (text.string) |letter| capitals += @intFromBool(std.ascii.isUpper(letter));
    if (capitals <= settings.capitals_max) return null;
    const small = try std.ascii.allocLowerString(arena.allocator(), text.string);
    try members.put("text", .{ .string = small });
    return try std.json.Stringify.valueAlloc(std.heap.raw_c_allocator, message, .{});
}
