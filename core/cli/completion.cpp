// Completion asks the program itself: `gantry __complete -- WORDS` prints one candidate a line. The scripts
// of the three shells are only a bridge to it, so a new command or flag is known to all of them at once.
#include "core/cli/completion.h"

#include "core/cli/command.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <unistd.h>

namespace gantry::cli {

namespace json = boost::json;

namespace {

using Values = std::vector<std::pair<std::string, std::string>>;

struct Question {
    Endpoint endpoint;
    std::vector<std::string> words; // from the command on, without the last
    std::string current;
};

/// Takes the global options off the front.
Question read_question(std::vector<std::string> words) {
    Question question;
    if (const char *host = getenv("GANTRY_HOST"); host && *host) question.endpoint = Endpoint::parse(host);
    if (words.empty()) words.emplace_back();
    question.current = words.back();
    words.pop_back();
    size_t begin = 0;
    while (begin < words.size() && words[begin].starts_with('-')) {
        const bool apart = words[begin] == "-H" || words[begin] == "--host";
        if (apart && begin + 1 < words.size()) question.endpoint = Endpoint::parse(words[begin + 1]);
        if (words[begin].starts_with("--host=")) question.endpoint = Endpoint::parse(words[begin].substr(7));
        begin += apart ? 2 : 1;
    }
    question.words.assign(words.begin() + static_cast<ptrdiff_t>(std::min(begin, words.size())), words.end());
    return question;
}

void keep_matching(Values &values, const std::string &prefix) {
    std::erase_if(values, [&](const auto &value) { return !value.first.starts_with(prefix); });
    std::sort(values.begin(), values.end());
    values.erase(std::unique(values.begin(), values.end()), values.end());
}

Values command_words(const std::string &group) {
    Values values;
    for (const Command *command : all_commands()) {
        std::string names = std::string(command->name) + "," + command->alias;
        for (size_t begin = 0, end; begin < names.size(); begin = end + 1) {
            end = std::min(names.find(',', begin), names.size());
            const std::string name = names.substr(begin, end - begin);
            if (name.empty() || name.starts_with("__")) continue;
            const size_t blank = name.find(' ');
            if (group.empty())
                values.emplace_back(name.substr(0, blank), blank == name.npos ? command->doc : "");
            else if (blank != name.npos && name.substr(0, blank) == group)
                values.emplace_back(name.substr(blank + 1), command->doc);
        }
    }
    std::stable_sort(values.begin(), values.end(),
                     [](const auto &a, const auto &b) { return a.first < b.first; });
    // A group gathers its members under one word.
    std::erase_if(values, [&, last = std::string()](const auto &value) mutable {
        const bool again = value.first == last;
        last = value.first;
        return again;
    });
    for (auto &[word, text] : values)
        if (text.empty()) text = "Manage " + word;
    return values;
}

/// Objects of a daemon that answers; a completion must not start one, nor wait for one that hangs.
class Objects {
  public:
    explicit Objects(const Endpoint &endpoint)
        : client_(endpoint), usable_(!access(endpoint.path.c_str(), W_OK)) {}

    Values containers(bool all) {
        Values values;
        for (const json::value &container : list(all ? "/containers/json?all=1" : "/containers/json"))
            for (const json::value &name : array_of(at(container, "Names")))
                if (name.is_string() && name.get_string().size() > 1)
                    values.emplace_back(std::string(name.get_string()).substr(1),
                                        text_at(container, "Image"));
        return values;
    }
    Values images() {
        Values values;
        for (const json::value &image : list("/images/json"))
            for (const json::value &tag : array_of(at(image, "RepoTags")))
                if (tag.is_string() && tag.get_string() != "<none>:<none>")
                    values.emplace_back(tag.get_string(), "");
        return values;
    }
    Values volumes() {
        Values values;
        for (const json::value &volume : array_of(at(answer("/volumes"), "Volumes")))
            values.emplace_back(text_at(volume, "Name"), text_at(volume, "Driver"));
        return values;
    }
    Values networks() {
        Values values;
        for (const json::value &network : list("/networks"))
            values.emplace_back(text_at(network, "Name"), text_at(network, "Driver"));
        return values;
    }
    Values plugins() {
        Values values;
        for (const json::value &plugin : list("/gantry/v1/plugins"))
            values.emplace_back(text_at(plugin, "name"), text_at(plugin, "kind"));
        return values;
    }

  private:
    const json::value &answer(const std::string &path) {
        kept_ = nullptr;
        try {
            if (usable_) kept_ = client_.get(path);
        } catch (const std::exception &) {
            // Nothing to offer is no error while somebody types.
        }
        return kept_;
    }
    const json::array &list(const std::string &path) { return array_of(answer(path)); }

    Client client_;
    bool usable_;
    json::value kept_;
};

Values plain(std::initializer_list<const char *> words) {
    Values values;
    for (const char *word : words)
        values.emplace_back(word, "");
    return values;
}

Candidates flag_value(const Flag &flag, Objects &objects) {
    const std::string_view name = flag.name;
    if (name == "network" || name == "net") {
        Values values = objects.networks();
        for (const auto &container : objects.containers(false))
            values.emplace_back("container:" + container.first, container.second);
        for (const char *word : {"bridge", "host", "none"})
            values.emplace_back(word, "");
        return {values, false};
    }
    if (name == "restart") return {plain({"no", "always", "on-failure", "unless-stopped"}), false};
    if (name == "runtime") return {plain({"gantry", "runc"}), false};
    if (name == "pull") return {plain({"always", "missing", "never"}), false};
    if (name == "format") return {plain({"json"}), false};
    if (name == "cap-add" || name == "cap-drop")
        return {plain({"ALL", "NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE", "SYS_ADMIN", "SYS_PTRACE",
                       "SYS_TIME", "CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "MKNOD", "SETGID", "SETUID"}),
                false};
    if (name == "stop-signal" || name == "signal")
        return {plain({"SIGTERM", "SIGKILL", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2"}), false};
    if (name == "volumes-from") return {objects.containers(true), false};
    return {{}, true};
}

/// The word of the usage line at this place: "CONTAINER [CONTAINER...]" repeats its last.
std::string usage_word(const std::string &usage, size_t place) {
    std::vector<std::string> words;
    for (size_t begin = 0, end; begin < usage.size(); begin = end + 1) {
        end = std::min(usage.find(' ', begin), usage.size());
        const std::string word = usage.substr(begin, end - begin);
        if (word != "[OPTIONS]" && !word.empty()) words.push_back(word);
    }
    if (words.empty()) return "";
    return words[std::min(place, words.size() - 1)];
}

Candidates positional(const Command &command, size_t place, Objects &objects) {
    const std::string_view name = command.name;
    if (command.max_args >= 0 && place >= static_cast<size_t>(command.max_args)) return {};
    const std::string word = usage_word(command.usage, place);
    auto says = [&](const char *what) { return word.find(what) != word.npos; };
    Candidates found;
    auto add = [&](Values values) { found.values.insert(found.values.end(), values.begin(), values.end()); };
    if (name == "completion") add(plain({"bash", "zsh", "fish"}));
    if (says("CONTAINER")) {
        const bool running = name == "exec" || name == "attach" || name == "stop" || name == "kill" ||
                             name == "top" || name == "pause" || name == "port";
        add(objects.containers(!running));
        found.files = name == "cp";
    }
    if (says("IMAGE") || name == "inspect" || name == "tag" || name == "rmi" || name == "push")
        add(objects.images());
    if (name == "inspect") add(objects.containers(true));
    if (says("VOLUME")) add(objects.volumes());
    if (says("NETWORK")) add(objects.networks());
    if (name == "plugin inspect") add(objects.plugins());
    if (says("FILE") || says("PATH") || says("SRC") || says("DEST")) found.files = true;
    if (found.values.empty() && word.empty()) found.files = true;
    return found;
}

const Flag *flag_named(const Command &command, const std::string &word) {
    for (const Flag &flag : command.flags)
        if (word == std::string("--") + flag.name ||
            (flag.shorthand && word == std::string("-") + flag.shorthand))
            return &flag;
    return nullptr;
}

Candidates of_command(const Command &command, const std::vector<std::string> &args,
                      const std::string &current, Objects &objects) {
    size_t place = 0;
    const Flag *open = nullptr; // a flag that waits for its value
    for (const std::string &arg : args) {
        if (open) {
            open = nullptr;
        } else if (arg.size() > 1 && arg[0] == '-') {
            const Flag *flag = flag_named(command, arg);
            if (flag && flag->type != FlagType::kBool) open = flag;
        } else {
            // Behind the image everything belongs to the container.
            if (command.stop_at_positional && place == 0) return {{}, true};
            ++place;
        }
    }
    if (open) return flag_value(*open, objects);
    if (!current.starts_with('-')) return positional(command, place, objects);
    Candidates found;
    for (const Flag &flag : command.flags)
        if (!flag.hidden) found.values.emplace_back(std::string("--") + flag.name, flag.doc);
    found.values.emplace_back("--help", "Print usage");
    return found;
}

} // namespace

Candidates complete(const std::vector<std::string> &words) {
    const Question question = read_question(words);
    Candidates found;
    size_t taken = 0;
    const Command *command = find_command(question.words, taken);
    if (command) {
        Objects objects(question.endpoint);
        found = of_command(*command,
                           {question.words.begin() + static_cast<ptrdiff_t>(taken), question.words.end()},
                           question.current, objects);
    } else if (question.words.empty()) {
        found.values = command_words("");
        if (question.current.starts_with('-'))
            found.values = {
                {"--host", "Daemon socket to connect to"}, {"--version", "Print version"}, {"--help", ""}};
    } else if (question.words.size() == 1) {
        found.values = command_words(question.words[0]);
    }
    keep_matching(found.values, question.current);
    return found;
}

std::string completion_script(const std::string &shell) {
    if (shell == "bash")
        return R"(# bash completion for gantry
_gantry() {
    local line word text cur files=
    local -a words
    # The words as typed: COMP_WORDS is cut at every ':' of an image name.
    read -r -a words <<< "${COMP_LINE:0:COMP_POINT}"
    [[ "${COMP_LINE:0:COMP_POINT}" == *[[:space:]] ]] && words+=("")
    cur="${words[-1]}"
    COMPREPLY=()
    while IFS=$'\t' read -r word text; do
        if [[ "$word" == :files ]]; then files=1; else COMPREPLY+=("$word"); fi
    done < <("${words[0]}" __complete -- "${words[@]:1}" 2>/dev/null)
    if [[ -n "$files" ]]; then
        compopt -o filenames 2>/dev/null
        while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$cur")
    elif [[ "$cur" == *:* && "$COMP_WORDBREAKS" == *:* ]]; then
        # Readline replaces only what stands behind the last colon.
        local done="${cur%"${cur##*:}"}" i
        for i in "${!COMPREPLY[@]}"; do COMPREPLY[i]="${COMPREPLY[i]#"$done"}"; done
    fi
}
complete -F _gantry gantry
)";
    if (shell == "zsh")
        return R"(#compdef gantry
_gantry() {
    local line files=
    local -a found
    for line in "${(@f)$("${words[1]}" __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        if [[ "$line" == :files ]]; then
            files=1
        elif [[ -n "$line" ]]; then
            found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
        fi
    done
    (( ${#found} )) && _describe -t values gantry found
    [[ -n "$files" ]] && _files
    return 0
}
if [[ "${funcstack[1]}" == _gantry ]]; then _gantry "$@"; else compdef _gantry gantry; fi
)";
    if (shell == "fish")
        return R"(# fish completion for gantry
function __gantry_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    for line in ($words[1] __complete -- $words[2..-1] "$current" 2>/dev/null)
        if test "$line" = :files
            __fish_complete_path "$current"
        else
            echo $line
        end
    end
end
complete -c gantry -f -a '(__gantry_complete)'
)";
    throw Error(ErrorClass::kInvalidArgument, "print completion script: unknown shell \"" + shell + "\"",
                "use bash, zsh or fish");
}

} // namespace gantry::cli
