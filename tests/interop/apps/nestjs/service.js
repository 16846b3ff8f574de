// A NestJS microservice. Without a build step there is no decorator syntax: they are applied as functions.
'use strict';

require('reflect-metadata');
const { Controller, Module } = require('@nestjs/common');
const { NestFactory } = require('@nestjs/core');
const { Ctx, EventPattern, MessagePattern, Payload, RpcException, Transport } = require('@nestjs/microservices');
const { journal, rmqOptions } = require('./application');

class Hares {
  sum(numbers, context) {
    acknowledge(context);
    return numbers.reduce((total, number) => total + number, 0);
  }

  refuse(reason, context) {
    acknowledge(context);
    throw new RpcException(reason);
  }

  onHop(hop, context) {
    journal(`${hop.name} hopped`);
    acknowledge(context);
  }

  /** Hands the event back the first time. */
  onStumble(stumble, context) {
    const message = context.getMessage();
    journal(`${stumble.name} ${message.fields.redelivered ? 'stood up' : 'stumbled'}`);
    if (message.fields.redelivered) acknowledge(context);
    else context.getChannelRef().nack(message);
  }
}

function acknowledge(context) {
  context.getChannelRef().ack(context.getMessage());
}

function handle(method, pattern) {
  const prototype = Hares.prototype;
  Payload()(prototype, method, 0);
  Ctx()(prototype, method, 1);
  pattern(prototype, method, Object.getOwnPropertyDescriptor(prototype, method));
}

handle('sum', MessagePattern('sum'));
handle('refuse', MessagePattern({ cmd: 'refuse' }));
handle('onHop', EventPattern('hopped'));
handle('onStumble', EventPattern('stumbled'));
Controller()(Hares);

class Application {}
Module({ controllers: [Hares] })(Application);

async function main() {
  const service = await NestFactory.createMicroservice(Application, {
    transport: Transport.RMQ,
    options: { ...rmqOptions, noAck: false, prefetchCount: 3 },
  });
  service.enableShutdownHooks();
  await service.listen();
  console.log('listening');
}

main();
