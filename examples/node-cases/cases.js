// One handler for each way a function can answer, for the tests.
"use strict";

let invocations = 0;

exports.echo = async (event, context) => {
  invocations += 1;
  console.log("hello from Node.js");
  return {
    event,
    invocations,
    pid: process.pid,
    node: process.version,
    requestId: context.awsRequestId,
    arn: context.invokedFunctionArn,
    memory: context.memoryLimitInMB,
    remaining: context.getRemainingTimeInMillis(),
    logStream: context.logStreamName,
    clientContext: context.clientContext ?? null,
  };
};

exports.raises = async () => {
  throw new RangeError("no stock left");
};

exports.exits = () => process.exit(3);

exports.returns7Mb = async () => "x".repeat(7_000_000);

// Answers in three pieces, with the metadata of an HTTP response before them.
exports.streams = awslambda.streamifyResponse(async (event, stream) => {
  stream = awslambda.HttpResponseStream.from(stream, {
    statusCode: 201,
    headers: { "Content-Type": "text/plain", "X-Case": "streams" },
    cookies: ["a=1"],
  });
  for (const piece of ["one ", "two ", "three"]) {
    stream.write(piece);
    await new Promise((resolve) => setTimeout(resolve, event.pause ?? 20));
  }
  stream.end();
});

// Answers in pieces, and fails in between.
exports.failsMidway = awslambda.streamifyResponse(async (_event, stream) => {
  stream.write("one ");
  await new Promise((resolve) => setTimeout(resolve, 50));
  throw new RangeError("no stock left midway");
});
