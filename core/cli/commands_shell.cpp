// What the shell and the packages ask of the client: completion and the manual page.
#include "core/cli/command.h"
#include "core/cli/completion.h"
#include "core/cli/format.h"

namespace gantry::cli {

namespace {

int completion_command(Invocation &invocation) {
    write_all(1, completion_script(invocation.args[0]), "standard output");
    return 0;
}

int complete_command(Invocation &invocation) {
    const Candidates found = complete(invocation.args);
    std::string text;
    for (const auto &[value, doc] : found.values)
        text += printable(value) + "\t" + printable(doc) + "\n";
    if (found.files) text += ":files\n";
    write_all(1, text, "standard output");
    return 0;
}

int manual_command(Invocation &) {
    write_all(1, manual_page(), "standard output");
    return 0;
}

} // namespace

std::span<const Command> shell_commands() {
    static const Command kCommands[] = {
        {"completion",
         "",
         "SHELL",
         "Print the completion script of bash, zsh or fish",
         {},
         1,
         1,
         completion_command},
        // Hidden, by their names.
        {"__complete",
         "",
         "-- [WORD...]",
         "Print what could stand at the cursor",
         {},
         0,
         -1,
         complete_command},
        {"__manual", "", "", "Print gantry(1)", {}, 0, 0, manual_command},
    };
    return kCommands;
}

} // namespace gantry::cli
