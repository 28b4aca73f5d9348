// gantry(1), made from the table of commands: a page that is written twice is wrong once.
#include "core/cli/completion.h"

#include "core/cli/command.h"

#include <algorithm>

namespace gantry::cli {

namespace {

/// Text as roff takes it literally.
std::string roff(std::string_view text) {
    std::string out;
    for (char c : text) {
        if (c == '\\')
            out += "\\e";
        else if (c == '-')
            out += "\\-";
        else if ((c == '.' || c == '\'') && (out.empty() || out.back() == '\n'))
            out += std::string("\\&") + c;
        else
            out += c;
    }
    return out;
}

std::string of_flag(const Flag &flag) {
    std::string text = ".TP\n";
    if (flag.shorthand) text += std::string("\\fB\\-") + flag.shorthand + "\\fR, ";
    text += "\\fB\\-\\-" + roff(flag.name) + "\\fR";
    if (flag.type != FlagType::kBool)
        text += " \\fI" + roff(flag.value_name ? flag.value_name : "value") + "\\fR";
    return text + "\n" + roff(flag.doc) + "\n";
}

} // namespace

std::string manual_page() {
    std::vector<const Command *> commands = all_commands();
    std::erase_if(commands,
                  [](const Command *command) { return std::string_view(command->name).starts_with("__"); });
    std::sort(commands.begin(), commands.end(),
              [](const Command *a, const Command *b) { return std::string_view(a->name) < b->name; });
    std::string page =
        ".TH GANTRY 1 \"\" \"gantry " GANTRY_VERSION "\" \"User Commands\"\n"
        ".SH NAME\ngantry \\- run containers on an engine whose backends are plugins\n"
        ".SH SYNOPSIS\n.B gantry\n[\\fB\\-H\\fR \\fIunix://PATH\\fR] \\fICOMMAND\\fR "
        "[\\fIARGUMENT\\fR...]\n"
        ".SH DESCRIPTION\n"
        "The client of \\fBgantryd\\fR(8). Commands, flags and output are those of docker(1) wherever "
        "both have them. When no engine answers on the default socket, one is started.\n"
        ".SH OPTIONS\n"
        ".TP\n\\fB\\-H\\fR, \\fB\\-\\-host\\fR \\fIunix://PATH\\fR\nSocket of the engine.\n"
        ".TP\n\\fB\\-v\\fR, \\fB\\-\\-version\\fR\nPrint the version.\n"
        ".TP\n\\fB\\-h\\fR, \\fB\\-\\-help\\fR\nPrint help; also behind every command.\n"
        ".SH COMMANDS\n";
    for (const Command *command : commands) {
        page += ".SS gantry " + roff(command->name) + " " + roff(command->usage) + "\n" + roff(command->doc) +
                ".\n";
        if (*command->alias) page += ".br\nOther names: " + roff(command->alias) + ".\n";
        for (const Flag &flag : command->flags)
            if (!flag.hidden) page += of_flag(flag);
    }
    page += ".SH EXIT STATUS\n"
            "0 on success, 1 on an error of the engine. \\fBrun\\fR, \\fBstart \\-a\\fR and \\fBexec\\fR "
            "give the exit "
            "status of the process, 125 when the engine could not do it, 126 when the program cannot be "
            "executed, 127 "
            "when it is not there, 128+\\fIn\\fR when signal \\fIn\\fR ended it.\n"
            ".SH ENVIRONMENT\n.TP\n.B GANTRY_HOST\nSocket of the engine, as with \\fB\\-H\\fR.\n"
            ".TP\n.B GANTRY_CONFIG\nConfiguration to start gantryd with when nothing answers on the "
            "socket.\n"
            ".TP\n.B NO_COLOR\nNo colour in terminals.\n"
            ".SH FILES\n.TP\n.I /run/gantry/gantry.sock\nThe engine's socket.\n"
            ".TP\n.I /etc/gantry/gantry.toml\nIts configuration, see \\fBgantry.toml\\fR(5).\n"
            ".SH SEE ALSO\n\\fBgantryd\\fR(8), \\fBgantry.toml\\fR(5)\n";
    return page;
}

} // namespace gantry::cli
