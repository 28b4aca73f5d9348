// What could stand at the cursor, and the manual page: both read off the table of commands.
#pragma once

#include <string>
#include <vector>

namespace gantry::cli {

struct Candidates {
    std::vector<std::pair<std::string, std::string>> values; // with one line of text each
    bool files = false;                                      // names of files fit as well
};

/// `words` are those behind "gantry"; the last one is being typed and may be empty. Names of objects are
/// asked of a daemon that answers; none is started.
Candidates complete(const std::vector<std::string> &words);

/// The script that teaches a shell ("bash", "zsh", "fish") to ask `gantry __complete`.
std::string completion_script(const std::string &shell);

/// gantry(1) in the language of man(7).
std::string manual_page();

} // namespace gantry::cli
