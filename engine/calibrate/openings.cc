#include "engine/calibrate/openings.h"

namespace spherical::engine {
namespace {

// Kinds alternate, so that any few in a row are diverse.
constexpr std::string_view kOpenings[] = {
    "The history of",
    "def main():\n    ",
    "Question: What is the",
    "# Introduction\n\n",
    "Dear Sir or Madam,\n\n",
    "#include <stdio.h>\n\n",
    "Once upon a time",
    "{\n  \"name\": \"",
    "According to the report,",
    "class Server:\n    \"\"\"",
    "In mathematics, a",
    "<!DOCTYPE html>\n<html>\n<head>\n",
    "\"I don't know,\" she said.",
    "The following table lists the",
    "import numpy as np\n\n",
    "Ingredients:\n\n- ",
    "To install the package, run",
    "public class Main {\n    ",
    "The patient was a",
    "Usage: ",
    "SELECT name, ",
    "Chapter 1\n\n",
    "La ville de",
    "static int ",
    "Abstract. We show that",
    "/**\n * Returns the",
    "User: Can you explain how",
    "1. ",
    "Yesterday, the president",
    ">>> ",
    "Der Begriff",
    "date,open,high,low,close\n",
    "Theorem 1. Let",
    "function render(",
    "Terms and conditions\n\nThe parties agree that",
    "$ ls -l\n",
    "El objetivo de este",
    "class Node {\n public:\n  ",
    "Review: This movie was",
    "Traceback (most recent call last):\n  File \"",
    "It is important to note that",
    "name: build\non:\n  ",
    "The sun was setting over",
    "    if (",
    "Step 1: First, you need to",
    "Parameters\n----------\n",
    "News: The company announced",
    "package main\n\nimport (",
    "\xd0\x92 \xd0\xbd\xd0\xb0\xd1\x87\xd0\xb0\xd0\xbb\xd0\xb5",  // "In the beginning", in Russian
    "A: Hello! How are you?\nB: ",
    "\\section{Results}\n\n",
    "INFO: Starting ",
    "\xe4\xb8\xad\xe5\x9b\xbd",  // "China", in Chinese
    "The error occurs when",
    "const express = require(",
    "In 1945, ",
    "## Configuration\n\nThe following options are",
    "self.assertEqual(",
    "O Brasil",
    "Subject: Meeting on",
    "#!/bin/bash\n\n",
    "The cell membrane is",
    "<p>",
    "fn main() {\n    let ",
};

}  // namespace

std::span<const std::string_view> Openings() { return kOpenings; }

}  // namespace spherical::engine
