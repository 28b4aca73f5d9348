// What a command is: a row of a table. main finds the row, reads the flags and calls it.
#pragma once

#include "core/cli/client.h"
#include "core/cli/flags.h"

#include <boost/json/fwd.hpp>

#include <functional>
#include <span>
#include <string>
#include <vector>

namespace gantry::cli {

struct Invocation {
    Client &client;
    ParsedFlags flags;
    std::vector<std::string> args; // positional
};

struct Command {
    const char *name;  // "ps", "volume ls"
    const char *alias; // other names, separated by ','; "" for none
    const char *usage; // behind the name
    const char *doc;
    std::span<const Flag> flags;
    int min_args, max_args; // max -1: any number
    int (*run)(Invocation &invocation);
    bool stop_at_positional = false;
};

std::span<const Command> run_commands();       // run, create, exec, attach, start, logs, wait
std::span<const Command> container_commands(); // stop, kill, rm, ps, ...
std::span<const Command> copy_commands();      // commit, diff, export, cp
std::span<const Command> image_commands();
std::span<const Command> registry_commands(); // login, logout, push, search
std::span<const Command> archive_commands();  // save, load, image copy
std::span<const Command> resource_commands(); // volume, network, system
std::span<const Command> engine_commands();   // version, info, events, plugin, config
std::span<const Command> mirror_commands();   // mirror, image verify

std::span<const Command> plugin_commands(); // plugin new
std::span<const Command> shell_commands();  // completion, and what packages ask for

/// Every command, those with a name that begins with "__" included: they are not shown.
std::vector<const Command *> all_commands();
/// The command that `args` begin with, null if none; `taken`: how many words its name has.
const Command *find_command(const std::vector<std::string> &args, size_t &taken);

/// Everything behind the global options. Returns the exit code; all errors are printed here.
int run_command_line(Client &client, const std::vector<std::string> &args);

// Output shared by the commands.

struct ListStyle {
    const char *table;                  // default format without "table "
    const boost::json::object &headers; // field -> heading
};
/// Prints rows by --format, --no-trunc is the caller's. `format` "": the default table.
void print_list(const std::vector<boost::json::object> &rows, const ListStyle &style, std::string format);
/// "{"label":{"a=b":true}}" of --filter flags, url-encoded with "filters=", or "".
std::string filter_query(const ParsedFlags &flags);
/// Runs `action` on each argument, prints errors and goes on. Exit code 1 when one failed.
int for_each_argument(const std::vector<std::string> &args,
                      const std::function<void(const std::string &)> &action);
/// One value by a template, or "json". Returns 0, an exit code.
int print_format(const boost::json::value &value, std::string format);
/// Keys of /gantry/v1 as snake_case whatever their case on the wire ("InUse", "in_use"): templates and
/// commands then know one spelling.
boost::json::value snake_keys(const boost::json::value &value, int depth = 0);
void print_error(const std::string &message);
void print_api_error(const ApiError &error);
void print_line(const std::string &text);
bool colour_on(int fd);

/// Member access that never throws: "" / 0 / null for what is absent or of another type.
std::string text_at(const boost::json::value &value, std::string_view key);
int64_t number_at(const boost::json::value &value, std::string_view key);
bool bool_at(const boost::json::value &value, std::string_view key);
const boost::json::value &at(const boost::json::value &value, std::string_view key);
const boost::json::array &array_of(const boost::json::value &value);

/// Pulls with progress and the credentials stored for the registry. `quiet`: no progress. Output goes to
/// `fd`.
void pull_image(Client &client, const std::string &reference, const std::string &platform, bool quiet,
                int fd);
/// POSTs and shows the progress that the daemon streams back. Throws ExitWith when it reports a failure.
void follow_progress(Client &client, const std::string &path, bool quiet, int fd,
                     std::vector<std::pair<std::string, std::string>> headers = {});
/// The same for an answer that is being read. `result` gets the objects of "aux".
void follow_stream(HttpConnection &stream, bool quiet, int fd,
                   const std::function<void(const boost::json::value &)> &result = {});
/// "name[:tag|@digest]" cut for the API; tag "latest" when there is none.
std::pair<std::string, std::string> split_reference(const std::string &reference);

} // namespace gantry::cli
