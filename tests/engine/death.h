#ifndef SPHERICAL_TESTS_ENGINE_DEATH_H_
#define SPHERICAL_TESTS_ENGINE_DEATH_H_

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>

namespace spherical {

// Runs `act` in a child process and returns what it wrote to stderr if it ended by SIGABRT, "" otherwise. For broken invariants: call it
// while no other thread runs.
template <class Act>
std::string LastWords(Act act) {
  int pipe_ends[2];
  if (pipe(pipe_ends) != 0) return "";
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGABRT, SIG_DFL);  // not the test framework's handler
    dup2(pipe_ends[1], STDERR_FILENO);
    act();
    _exit(0);
  }
  close(pipe_ends[1]);
  std::string words;
  char buffer[4096];
  for (ssize_t n; (n = read(pipe_ends[0], buffer, sizeof(buffer))) > 0;) words.append(buffer, n);
  close(pipe_ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT ? words : "";
}

}  // namespace spherical

#endif  // SPHERICAL_TESTS_ENGINE_DEATH_H_
