// A client of the service: requests over the direct reply-to, and events. Prints what it was answered, as JSON.
'use strict';

require('reflect-metadata');
const { ClientProxyFactory, Transport } = require('@nestjs/microservices');
const { firstValueFrom } = require('rxjs');
const { rmqOptions } = require('./application');

async function main() {
  const client = ClientProxyFactory.create({ transport: Transport.RMQ, options: rmqOptions });
  const send = (pattern, data) => firstValueFrom(client.send(pattern, data));

  const requests = Array.from({ length: 50 }, (_, number) => send('sum', [number, 1]));
  const answers = {
    sums: await Promise.all(requests),
    refusal: await send({ cmd: 'refuse' }, 'no hares today').catch((error) => error),
  };
  await firstValueFrom(client.emit('hopped', { name: 'Leveret' }), { defaultValue: null });
  await firstValueFrom(client.emit('stumbled', { name: 'Leveret' }), { defaultValue: null });
  await client.close();
  console.log(JSON.stringify(answers));
}

main();
