// Finds the command, prints help, and turns every error into a message and an exit code.
#include "core/cli/command.h"
#include "core/cli/template.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <algorithm>

namespace gantry::cli {
namespace {

bool has_name(const Command &command, std::string_view name) {
    if (name == command.name) return true;
    std::string_view aliases = command.alias;
    while (!aliases.empty()) {
        size_t comma = std::min(aliases.find(','), aliases.size());
        if (aliases.substr(0, comma) == name) return true;
        aliases.remove_prefix(std::min(comma + 1, aliases.size()));
    }
    return false;
}

// The second words of a group, with their text; empty when `group` is none.
std::vector<std::pair<std::string, const Command *>> group_members(const std::string &group) {
    std::vector<std::pair<std::string, const Command *>> members;
    for (const Command *command : all_commands()) {
        std::string names = std::string(command->name) + "," + command->alias;
        for (size_t begin = 0; begin <= names.size();) {
            size_t end = std::min(names.find(',', begin), names.size());
            std::string name = names.substr(begin, end - begin);
            begin = end + 1;
            if (name.starts_with(group + " ")) {
                members.emplace_back(name.substr(group.size() + 1), command);
                break; // other spellings are not listed
            }
        }
    }
    std::sort(members.begin(), members.end(), [](auto &a, auto &b) { return a.first < b.first; });
    return members;
}

std::string list_text(const std::vector<std::pair<std::string, const Command *>> &members) {
    size_t width = 0;
    for (const auto &[name, command] : members)
        width = std::max(width, name.size());
    std::string text;
    for (const auto &[name, command] : members)
        text += "  " + name + std::string(width + 3 - name.size(), ' ') + command->doc + "\n";
    return text;
}

std::string main_help() {
    std::vector<std::pair<std::string, const Command *>> plain;
    std::vector<std::string> groups;
    for (const Command *command : all_commands()) {
        std::string name = command->name;
        if (name.starts_with("__")) continue;
        if (size_t blank = name.find(' '); blank == std::string::npos)
            plain.emplace_back(name, command);
        else if (std::find(groups.begin(), groups.end(), name.substr(0, blank)) == groups.end())
            groups.push_back(name.substr(0, blank));
    }
    std::string text = "Usage:  gantry [OPTIONS] COMMAND\n\nA container engine whose backends are "
                       "plugins\n\nManagement Commands:\n";
    for (const std::string &group : groups)
        text += "  " + group + std::string(12 - group.size(), ' ') + "Manage " + group + "\n";
    return text + "\nCommands:\n" + list_text(plain) +
           "\nGlobal Options:\n  -H, --host string   Daemon socket to connect to (unix://PATH)\n"
           "  -v, --version       Print version information and quit\n  -h, --help          Print this "
           "help\n\n"
           "Run 'gantry COMMAND --help' for more information on a command.\n";
}

std::string command_help(const Command &command, const std::string &name) {
    std::string text = "Usage:  gantry " + name + " " + command.usage + "\n\n" + command.doc + "\n";
    if (*command.alias) {
        std::string aliases = command.alias;
        for (size_t at = 0; (at = aliases.find(',', at)) != std::string::npos; at += 9)
            aliases.replace(at, 1, ", gantry ");
        text += "\nAliases:\n  gantry " + std::string(command.name) + ", gantry " + aliases + "\n";
    }
    if (!command.flags.empty()) text += "\nOptions:\n" + format_flags(command.flags);
    return text;
}

void check_arguments(const Command &command, const std::string &name, size_t count) {
    auto low = static_cast<size_t>(command.min_args);
    bool enough = count >= low, few = command.max_args < 0 || count <= static_cast<size_t>(command.max_args);
    if (enough && few) return;
    std::string rule;
    auto plural = [](int number) {
        return std::to_string(number) + (number == 1 ? " argument." : " arguments.");
    };
    if (command.max_args == 0)
        rule = " accepts no arguments.";
    else if (command.max_args == command.min_args)
        rule = " requires exactly " + plural(command.min_args);
    else if (!enough)
        rule = " requires at least " + plural(command.min_args);
    else
        rule = " requires at most " + plural(command.max_args);
    throw ExitWith(1, "\"gantry " + name + "\"" + rule + "\nSee 'gantry " + name +
                          " --help'.\n\nUsage:  gantry " + name + " " + command.usage + "\n\n" + command.doc);
}

int run_one(Client &client, const Command &command, const std::string &name,
            const std::vector<std::string> &args) {
    try {
        ParsedFlags flags = parse_flags(command.flags, args, command.stop_at_positional);
        if (flags.is_set("help")) {
            write_all(1, command_help(command, name), "standard output");
            return 0;
        }
        check_arguments(command, name, flags.positional.size());
        std::vector<std::string> positional = flags.positional;
        Invocation invocation{client, std::move(flags), std::move(positional)};
        return command.run(invocation);
    } catch (const FlagError &error) {
        print_error(error.message + "\nSee 'gantry " + name + " --help'.");
        return 125;
    } catch (const ExitWith &error) {
        if (*error.what()) print_error(error.what());
        return error.code;
    } catch (const ApiError &error) {
        print_api_error(error);
    } catch (const TemplateError &error) {
        print_error(error.what());
    } catch (const Error &error) {
        bool starts = has_name(command, "run") || has_name(command, "container run");
        print_error((starts ? "gantry: " : "") + error.message() +
                    (error.hint().empty() ? "" : "\n" + error.hint()));
        return starts ? 125 : 1;
    }
    return 1;
}

} // namespace

std::vector<const Command *> all_commands() {
    std::vector<const Command *> all;
    for (auto group : {run_commands(), container_commands(), copy_commands(), image_commands(),
                       registry_commands(), archive_commands(), resource_commands(), engine_commands(),
                       mirror_commands(), plugin_commands(), shell_commands()})
        for (const Command &command : group)
            all.push_back(&command);
    return all;
}

const Command *find_command(const std::vector<std::string> &args, size_t &taken) {
    const std::vector<const Command *> all = all_commands();
    // Two words first: "container ls" before a command "container" could be looked for.
    for (taken = 2; taken > 0; --taken) {
        if (args.size() < taken) continue;
        const std::string name = args[0] + (taken == 2 ? " " + args[1] : "");
        for (const Command *command : all)
            if (has_name(*command, name)) return command;
    }
    return nullptr;
}

int run_command_line(Client &client, const std::vector<std::string> &args) {
    if (args.empty() || args[0] == "help") {
        if (args.size() > 1) {
            std::vector<std::string> rest(args.begin() + 1, args.end());
            rest.emplace_back("--help");
            return run_command_line(client, rest);
        }
        write_all(1, main_help(), "standard output");
        return 0;
    }
    size_t taken = 0;
    if (const Command *command = find_command(args, taken))
        return run_one(client, *command, args[0] + (taken == 2 ? " " + args[1] : ""),
                       {args.begin() + static_cast<ptrdiff_t>(taken), args.end()});
    if (auto members = group_members(args[0]); !members.empty()) {
        std::string help = "Usage:  gantry " + args[0] + " COMMAND\n\nCommands:\n" + list_text(members) +
                           "\nRun 'gantry " + args[0] +
                           " COMMAND --help' for more information on a command.\n";
        bool asked = args.size() == 1 || args[1] == "--help" || args[1] == "-h";
        if (asked) {
            write_all(1, help, "standard output");
            return 0;
        }
        print_error("gantry: unknown command: gantry " + args[0] + " " + args[1] + "\n\n" + help);
        return 1;
    }
    print_error("gantry: '" + args[0] + "' is not a gantry command.\nSee 'gantry --help'");
    return 1;
}

} // namespace gantry::cli
