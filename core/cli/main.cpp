// Global options, by Boost.Program_options; everything behind the first word belongs to the command.
#include "core/cli/command.h"

#include <gantry/error.hpp>

#include <boost/program_options.hpp>

#include <cstdlib>
#include <exception>

namespace {

namespace options = boost::program_options;
using namespace gantry::cli;

// Where the command begins: a value that stands apart (`-H unix://x`) belongs to its option.
size_t command_index(const std::vector<std::string> &args) {
    size_t index = 0;
    while (index < args.size() && args[index].size() > 1 && args[index][0] == '-')
        index += args[index] == "-H" || args[index] == "--host" ? 2 : 1;
    return std::min(index, args.size());
}

int run(int argc, char **argv) {
    std::vector<std::string> args(argv + 1, argv + argc);
    size_t begin = command_index(args);
    std::vector<std::string> global(args.begin(), args.begin() + static_cast<ptrdiff_t>(begin));
    args.erase(args.begin(), args.begin() + static_cast<ptrdiff_t>(begin));

    Endpoint endpoint;
    if (const char *host = getenv("GANTRY_HOST"); host && *host) endpoint = Endpoint::parse(host);
    if (!global.empty()) {
        options::options_description known;
        known.add_options()("host,H", options::value<std::string>())("version,v", "")("help,h", "")("debug,D",
                                                                                                    "");
        options::variables_map values;
        namespace style = options::command_line_style;
        options::store(options::command_line_parser(global)
                           .options(known)
                           .style(style::unix_style & ~style::allow_guessing)
                           .run(),
                       values);
        if (values.count("version")) {
            print_line("gantry version " GANTRY_VERSION);
            return 0;
        }
        if (values.count("host")) endpoint = Endpoint::parse(values["host"].as<std::string>());
        if (values.count("help")) args = {"help"};
    }
    Client client(endpoint);
    return run_command_line(client, args);
}

} // namespace

int main(int argc, char **argv) {
    try {
        return run(argc, argv);
    } catch (const options::error &error) {
        print_error(std::string(error.what()) + "\nSee 'gantry --help'.");
        return 125;
    } catch (const gantry::Error &error) {
        print_error("gantry: " + error.message() + (error.hint().empty() ? "" : "\n" + error.hint()));
        return 1;
    } catch (const std::exception &error) {
        print_error(std::string("gantry: internal error: ") + error.what());
        return 1;
    }
}
