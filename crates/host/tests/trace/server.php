<?php
// What PHP does with a request: one process each, from its beginning to its end.
function call($path) {
    $answer = file_get_contents("http://127.0.0.1:" . getenv("LEAF") . $path);
    if ($answer === false) http_response_code(500);
}
$id = $_GET["id"];
$times = 1;
switch ($_GET["pattern"]) {
    case "delayed": usleep(random_int(0, 10000)); break;
    case "sequential": $times = 3; break;
}
file_get_contents("php://input");
for ($i = 0; $i < $times; $i++) call("/leaf?id=$id");
header("Content-Length: 2");
echo "ok";
if ($_GET["pattern"] === "after" && function_exists("fastcgi_finish_request")) {
    fastcgi_finish_request();
    call("/late?id=$id");
}
